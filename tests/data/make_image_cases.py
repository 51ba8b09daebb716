"""Writes cases of ImageDecoder below `tests/data/image`, with Pillow's results.

    python make_image_cases.py [folder]

Needs numpy, onnx and Pillow.
"""

import io
import os
import shutil
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

FOLDER = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "image")


def picture(width, height, mode="RGB"):
    """Smooth colors with edges in them."""
    y, x = np.mgrid[0:height, 0:width]
    red = (x * 7 + y * 3) % 256
    green = np.where((x // 5 + y // 5) % 2 == 0, 220, 40 + y * 2)
    blue = (x * x + y * 11) // 3 % 256
    image = Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8), "RGB")
    return image.convert(mode)


def case(name, image, file_format, pixel_format="RGB", **options):
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    data = np.frombuffer(file.getvalue(), np.uint8)
    decoded = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    pixels = np.array(decoded)
    if pixel_format == "BGR":
        pixels = pixels[:, :, ::-1].copy()
    elif pixel_format == "Grayscale":
        pixels = np.array(decoded.convert("L"))[:, :, np.newaxis]
    node = helper.make_node("ImageDecoder", ["data"], ["image"], pixel_format=pixel_format)
    byte = onnx.TensorProto.UINT8
    inputs = [helper.make_tensor_value_info("data", byte, [None])]
    outputs = [helper.make_tensor_value_info("image", byte, [None, None, None])]
    graph = helper.make_graph([node], "case", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="")
    folder = os.path.join(FOLDER, name, "test_data_set_0")
    os.makedirs(folder)
    with open(os.path.join(FOLDER, name, "model.onnx"), "wb") as model_file:
        model_file.write(model.SerializeToString())
    for kind, value in (("input", data), ("output", pixels)):
        with open(os.path.join(folder, f"{kind}_0.pb"), "wb") as value_file:
            value_file.write(numpy_helper.from_array(value).SerializeToString())


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    odd = picture(37, 21)
    for sampling, name in ((0, "444"), (1, "422"), (2, "420")):
        case(f"jpeg_{name}", odd, "JPEG", subsampling=sampling, quality=80)
        case(f"jpeg_progressive_{name}", odd, "JPEG", subsampling=sampling, quality=85, progressive=True)
    case("jpeg_gray_optimized", picture(19, 9, "L"), "JPEG", optimize=True)
    case("jpeg_restarts", odd, "JPEG", "BGR", restart_marker_blocks=2)
    case("jpeg_cmyk", picture(17, 10, "CMYK"), "JPEG", quality=90)
    case("jpeg_narrow", picture(3, 5), "JPEG", subsampling=2)
    case("png_rgb", odd, "PNG", "Grayscale")
    for mode, name in (("L", "gray"), ("LA", "gray_alpha"), ("RGBA", "alpha"), ("P", "palette"), ("1", "bilevel")):
        case(f"png_{name}", picture(21, 13, mode), "PNG")
    case("png_palette_4", picture(21, 13).quantize(16), "PNG", bits=4)
    case("png_16", Image.fromarray((np.arange(35).reshape(5, 7) * 1800).astype(np.uint16)).convert("L"), "PNG")
    for mode, name in (("L", "gray"), ("RGB", "rgb"), ("P", "palette"), ("1", "bilevel"), ("RGBA", "alpha")):
        case(f"bmp_{name}", picture(11, 7, mode), "BMP")
    for mode, name in (("L", "gray"), ("RGB", "rgb"), ("1", "bilevel")):
        case(f"pnm_{name}", picture(11, 7, mode), "PPM")
        case(f"tiff_{name}", picture(11, 7, mode), "TIFF")
    case("tiff_palette", picture(11, 7, "P"), "TIFF")
    case("tiff_packbits", picture(40, 9), "TIFF", compression="packbits")
    case("tiff_deflate", picture(40, 9), "TIFF", compression="tiff_adobe_deflate")
    case("tiff_alpha", picture(11, 7, "RGBA"), "TIFF")
