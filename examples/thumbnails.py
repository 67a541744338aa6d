"""Make thumbnails: work for the processor, spread over all of them.

    pip install pillow
    python examples/thumbnails.py FROM TO

Without directories it paints some pictures, and makes thumbnails of those.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from PIL import Image

import wool

SIDE = 128


@wool.routine
async def thumbnail(source: Path, target: Path) -> tuple[int, int]:
    # The paths travel, not the pictures: workers on this machine see the same files.
    with Image.open(source) as picture:
        picture.thumbnail((SIDE, SIDE))
        picture.convert("RGB").save(target)
        return picture.size


async def convert(sources: Path, targets: Path) -> None:
    targets.mkdir(parents=True, exist_ok=True)
    paths = sorted(path for path in sources.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    async with wool.WorkerPool():  # a worker per CPU
        # Read as they are needed: of a million names, a few are ever on their way.
        sizes = wool.map(thumbnail, paths, (targets / f"{path.stem}.jpg" for path in paths))
        for path in paths:
            width, height = await anext(sizes)
            print(f"{path.name}: {width} x {height}")


def paint(directory: Path) -> None:
    for index, (width, height) in enumerate([(1600, 1200), (1200, 1600), (900, 900)]):
        Image.radial_gradient("L").resize((width, height)).save(directory / f"picture{index}.png")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(convert(Path(sys.argv[1]), Path(sys.argv[2])))
    else:
        with tempfile.TemporaryDirectory() as directory:
            paint(Path(directory))
            asyncio.run(convert(Path(directory), Path(directory, "thumbnails")))
