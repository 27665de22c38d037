"""LiteRT.js, which runs .tflite files in a browser: one version of it from npm, every file checked."""

import hashlib
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

VERSION = "2.5.3"
PACKAGES = [f"@litertjs/{name}@{VERSION}" for name in ("core", "wasm-utils")]
# What a page needs, with its SHA-256. LiteRT.js takes "compat" by itself where a browser has no relaxed SIMD.
FILES = {
    "core/package.json": "1ba6b1c4b25c061cf97876e4846be92f8dfe312d2f78d82ee3ee92ab45c80987",
    "core/dist/index.js": "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
    "core/wasm/litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    "core/wasm/litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    "core/wasm/litert_wasm_compat_internal.js": "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    "core/wasm/litert_wasm_compat_internal.wasm": "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
    "wasm-utils/package.json": "ae611a4748709d61321ab658619617ba5a82212463b2f07a9aea2ad179e34ded",
    "wasm-utils/dist/index.js": "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2",
}
WITHOUT_NPM = (
    f"on a machine that has npm run `npm install {' '.join(PACKAGES)}` in any folder, and give that folder as "
    "`litertjs` (--litertjs FOLDER)"
)


def litertjs_files(litertjs: str | os.PathLike | None = None) -> dict[str, bytes]:
    """Return LiteRT.js.

    Args:
        litertjs: A folder in which npm has installed the two packages; None to have npm fetch them, 12 MB.

    Returns:
        The contents of `FILES`.

    Raises:
        ValueError: If `litertjs` lacks a file, a file is not that of the version, or npm is not installed.
        OSError: If npm could not fetch the packages.
    """
    contents = {}
    for name, content in _fetched() if litertjs is None else _installed(Path(litertjs)):
        found = hashlib.sha256(content).hexdigest()
        if found != FILES[name]:
            raise ValueError(
                f"@litertjs/{name} must be that of version {VERSION}, with the SHA-256 {FILES[name]}. Received: {found}"
            )
        contents[name] = content
    return contents


def _installed(folder: Path) -> Iterator[tuple[str, bytes]]:
    places = [folder / "node_modules" / "@litertjs", folder / "@litertjs", folder]
    place = next((each for each in places if (each / "core").is_dir()), folder)
    for name in FILES:
        try:
            yield name, (place / name).read_bytes()
        except OSError as error:
            raise ValueError(
                f"`litertjs` must be a folder in which `npm install {' '.join(PACKAGES)}` ran; {name} cannot be read "
                f"there ({error.strerror}). Received: litertjs={os.fspath(folder)!r}"
            ) from error


def _fetched() -> Iterator[tuple[str, bytes]]:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"npm must be installed, it brings LiteRT.js; or {WITHOUT_NPM}. Received: no npm")
    logger.info("fetching %s from npm", " and ".join(PACKAGES))
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts", f"--pack-destination={folder}", *PACKAGES]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=600
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"npm could not fetch LiteRT.js in 10 minutes; {WITHOUT_NPM}") from error
        if done.returncode:
            reason = " ".join(line.removeprefix("npm error ") for line in done.stderr.splitlines()[:3])
            raise OSError(f"npm could not fetch LiteRT.js ({reason}); {WITHOUT_NPM}")
        for name in FILES:
            package, _, path = name.partition("/")
            with tarfile.open(Path(folder, f"litertjs-{package}-{VERSION}.tgz")) as archive:
                yield name, archive.extractfile(f"package/{path}").read()
