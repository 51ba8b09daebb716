// What the kernel micro-benchmarks measure.

/** Matrix products as [m, k, n]. */
export const products = [
  [1024, 1024, 1024],
  [512, 512, 512],
  [128, 384, 384],
  [128, 384, 1536],
  [128, 32, 128],
  [32, 384, 1536],
  [32, 1536, 384],
  [257, 384, 384],
  [257, 384, 1536],
  [257, 1536, 384],
  [196, 256, 1024],
  [512, 2048, 49],
  [1, 512, 512],
  [2, 512, 512],
  [3, 512, 512],
  [4, 512, 512],
  [8, 512, 512],
];

const conv = (net, from, to, groups, size, kernel, stride) => {
  const kind = groups > 1 ? "depthwise " : "";
  return {
    text: `${net} ${kind}${kernel}x${kernel}/${stride} ${from}-${to} @${size}`,
    from,
    to,
    groups,
    size,
    kernel,
    stride,
  };
};

/** Of text lines: few lines of many columns. */
const flat = (channels, lines, size, kernel) => ({
  ...conv("text line", channels, channels, channels, size, kernel, 1),
  text: `text line depthwise ${kernel}x${kernel}/1 ${channels} @${lines}x${size}`,
  lines,
});

const resnet = [
  [64, 56],
  [128, 28],
  [256, 14],
  [512, 7],
].flatMap(([width, size]) => [
  conv("resnet50", width * 4, width, 1, size, 1, 1),
  conv("resnet50", width, width, 1, size, 3, 1),
  conv("resnet50", width, width * 4, 1, size, 1, 1),
]);

const depthwise = [
  [32, 112, 1],
  [96, 112, 2],
  [144, 56, 1],
  [144, 56, 2],
  [192, 28, 1],
  [384, 14, 1],
  [960, 7, 1],
].map(([channels, size, stride]) => conv("mobilenet", channels, channels, channels, size, 3, stride));

/** Convolutions of ResNet-50 and MobileNet, square and padded by half the kernel. */
export const convolutions = [
  conv("resnet50", 3, 64, 1, 224, 7, 2),
  ...resnet,
  conv("resnet50", 256, 512, 1, 56, 1, 2),
  conv("resnet50", 128, 128, 1, 56, 3, 2),
  conv("mobilenet", 3, 32, 1, 224, 3, 2),
  conv("mobilenet", 32, 16, 1, 112, 1, 1),
  ...depthwise,
  conv("mobilenet", 576, 576, 576, 14, 3, 2),
  conv("mobilenet", 240, 240, 240, 28, 5, 1),
  flat(200, 2, 96, 5),
  flat(88, 3, 96, 5),
  flat(32, 6, 96, 3),
  flat(120, 1, 160, 5),
  conv("detector", 64, 64, 1, 174, 1, 1),
  conv("detector", 128, 128, 1, 87, 1, 1),
  conv("detector", 256, 64, 1, 87, 1, 1),
  conv("detector", 16, 32, 1, 348, 1, 1),
  conv("detector", 3, 16, 1, 700, 3, 2),
  conv("audio", 3, 32, 1, 180, 3, 1),
  conv("audio", 8, 8, 1, 172, 11, 1),
  conv("detector", 48, 96, 1, 80, 1, 1),
  conv("detector", 24, 48, 1, 128, 1, 1),
  conv("detector", 48, 24, 1, 80, 3, 2),
  conv("audio", 32, 1, 1, 172, 5, 1),
  conv("few outputs", 32, 1, 1, 88, 5, 1),
  conv("few outputs", 128, 128, 32, 56, 3, 1),
  conv("few outputs", 33, 4, 1, 88, 3, 1),
  conv("few outputs", 33, 3, 1, 88, 5, 1),
  conv("mobilenet", 128, 128, 128, 50, 5, 2),
  conv("mobilenet", 96, 96, 96, 40, 7, 1),
];

/** Convolutions along a line as [channels in, out, size, taps, dilation]. */
export const lines = [
  [256, 512, 508, 5, 1],
  [128, 128, 1000, 3, 1],
  [64, 64, 4000, 7, 2],
  [32, 32, 400, 3, 1],
  [16, 32, 400, 5, 1],
];

/** Poolings as [kind, channels, size, kernel, stride, pad]. */
export const poolings = [
  ["max", 64, 112, 3, 2, 0],
  ["max", 192, 27, 3, 1, 1],
  ["max", 512, 13, 3, 1, 1],
  ["max", 32, 160, 2, 2, 0],
  ["average", 136, 28, 3, 2, 1],
  ["average", 256, 28, 2, 2, 0],
  ["average", 1024, 7, 7, 1, 0],
];

/** Local response normalisations as [channels, size]. */
export const responses = [[192, 55]];
