"""Config files: found by their path or, of those that are packaged, by their name; read as sections by name.

What is wrong with a file as a file, whatever its options say, is an error of one line that names it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lightning_circuits import configs
from lightning_circuits.printable import printable

CONFIGS = Path(configs.__file__).parent


def packaged() -> dict[str, Path]:
    """The configs that come with the package, by name, without their suffix."""
    files = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("with/*.yaml")])
    return {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in files}


def find_config(name: str) -> Path:
    """A file, or one of the packaged configs by name, with or without its suffix.

    Raises:
        ValueError: there is no such config; those that are packaged are named.
    """
    if Path(name).is_file():
        return Path(name)
    files = packaged()
    if name.removesuffix(".yaml") in files:
        return files[name.removesuffix(".yaml")]
    if Path(name).is_dir():
        raise ValueError(f"the config {name} is a folder: name the file in it")
    raise ValueError(f"there is no config {name}: neither such a file nor packaged ({', '.join(files)})")


def read_sections(file: Path) -> dict[str, Any]:
    """The sections of a config by name, as plain data.

    Raises:
        ValueError: it cannot be read, is no YAML, or holds something else.
    """
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        json.dumps(config, default=str)
    except UnicodeDecodeError:
        trouble = "is no text in UTF-8"
    except OSError as error:
        trouble = f"cannot be read ({error.strerror})"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        trouble = f"is no YAML{where}: {getattr(error, 'problem', None) or error}"
    except (ValueError, RecursionError):  # an alias within what it stands for; thousands of brackets
        trouble = "contains itself, or is nested too deeply"
    else:
        if isinstance(config, dict):
            return config
        trouble = "is empty" if config is None else f"holds {printable(repr(config))[:40]} in place of sections by name"
    raise ValueError(f"the config {file} {trouble}")


def tokenizer_of(own: str | None, model: str, data: Any) -> str:
    """What `--tokenizer` and the model say; jsonargparse would drop without a word what the data say.

    Args:
        own: the tokenizer that was asked for by name, if any.
        model: the name of the model.
        data: the section of the data, as jsonargparse has it.

    Raises:
        ValueError: no data; they name another tokenizer.
    """
    if data is None:
        raise ValueError("data: say which prompts, such as --data IOIDataModule")
    return _the_same(own, model, data, "data")


def tokenizer_of_text(own: str | None, search: Any) -> str:
    """The same for the ordinary text of a search that has one.

    Args:
        own: the tokenizer that was asked for by name, if any.
        search: the section of the search, as jsonargparse has it.

    Raises:
        ValueError: no search; it names another tokenizer.
    """
    if search is None:
        raise ValueError(
            "nothing says what to run: give --config, such as ioi_gpt2.yaml (lightning-circuits --help lists those of "
            "the package), or --model and --data"
        )
    return _the_same(own, search.init_args.model, search.init_args.get("text"), "model.text")


def _the_same(own: str | None, model: str, section: Any, where: str) -> str:
    chosen, given = model if own is None else own, section and section.init_args.get("tokenizer")
    if given not in (None, chosen):
        raise ValueError(f"--{where}.tokenizer {given}: the tokenizer is the model's, or that of --tokenizer {given}")
    return chosen
