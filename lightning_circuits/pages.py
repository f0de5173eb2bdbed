"""Where the pages of the documentation stand on this machine, so that whoever reads an error message can open one.

They come with the package: in a wheel inside of it, in a checkout of the repository beside it.
"""

from pathlib import Path

INSTALLED = Path(__file__).with_name("docs")
CHECKOUT = Path(__file__).parents[1] / "docs"


def see_page(name: str, heading: str) -> str:
    """What an error message ends with: ``(/where/it/is/docs/own-task.md, "Pairs that do not align")``."""
    folder = INSTALLED if INSTALLED.is_dir() else CHECKOUT
    return f'({folder / name}.md, "{heading}")'
