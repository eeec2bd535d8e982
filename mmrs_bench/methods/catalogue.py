"""Method cards: the shipped ones, those of installed packages, and those at a path.

An installed package registers a method with an entry point of group ``mmrs_bench.methods`` whose value is the
``pathlib.Path`` of its card. Reading cards imports no code of methods.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mmrs_bench.config import BudgetName, MethodSpec
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.methods.setting_paths import moved_paths
from mmrs_bench.paths import BENCHMARK_DIR, REPOSITORY, shipped_files
from mmrs_bench.plugins import entry_point_paths
from mmrs_bench.reading import read_yaml, validated

METHOD_GROUP = "mmrs_bench.methods"
CARD_DIR = BENCHMARK_DIR / "methods"
#: Ending of a file in ``class_path``.
CLASS_FILE = ".py"
#: Fields of a card that contain settings.
SETTINGS = ("config", "budgets", "variants")


def read_method_card(path: Path) -> MethodSpec:
    """Read a method card.

    A card with ``extends: NAME`` starts from the fields of another card in its folder or among the shipped ones. Its
    ``config`` and ``budgets`` are merged key by key; its other fields replace those of the other card. Inherited
    settings name the same files as in the other card. A ``class_path`` with a relative file gets its absolute path.

    Raises:
        ConfigError: If the file cannot be read, a field is wrong, or the file of the class does not exist.
    """
    return validated(MethodSpec, _card_fields(path, ()), where=path, error=ConfigError)


def _card_fields(path: Path, extended_by: tuple[Path, ...]) -> Any:
    fields = read_yaml(path, error=ConfigError, advice="give the path of a method card (.yaml)")
    if not isinstance(fields, dict):
        return fields
    if isinstance(fields.get("class_path"), str):
        fields["class_path"] = _absolute_class_path(fields["class_path"], path)
    if "extends" not in fields:
        return fields
    name = fields.pop("extends")
    file = name if is_card_path(str(name)) else f"{name}.yaml"
    candidates = [folder / file for folder in (path.parent, CARD_DIR)]
    candidates.sort(key=lambda candidate: candidate.resolve() == path.resolve())  # a copy of rf.yaml may extend rf
    base_path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if base_path is None:
        raise ConfigError(f"{path}: extends {name!r}, but there is no {file} in {path.parent} or {CARD_DIR}")
    chain = (*extended_by, path)
    if base_path in chain:
        raise ConfigError(f"{path}: extends {name!r}, which extends this card; remove one of the two fields")
    base = _card_fields(base_path, chain)
    if not isinstance(base, dict):
        return base
    return _merged(_moved(base, _folder_of(base_path), _folder_of(path)), fields)


def _absolute_class_path(class_path: str, card: Path) -> str:
    """A ``class_path`` whose file, if it names one, has its absolute path.

    Raises:
        ConfigError: If there is no such file, or Python cannot import a file of this name.
    """
    file, _, name = class_path.rpartition(":")
    if not file.endswith(CLASS_FILE):
        return class_path
    path = (card.parent / Path(file).expanduser()).resolve()
    if not path.is_file():
        raise ConfigError(f"{card}: class_path names {path}, which is no file; give its path from the card's folder")
    if not path.stem.isidentifier():
        raise ConfigError(f"{card}: Python cannot import {path.name}; name it with letters, digits and underscores")
    return f"{path}:{name}"


def _moved(fields: dict[str, Any], folder: Path, new: Path) -> dict[str, Any]:
    """The fields of a card, whose settings name the same files when the card lies in another folder."""
    settings = {name: moved_paths(fields[name], folder, new) for name in SETTINGS if name in fields}
    return {**fields, **settings}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a base card, changed by those of a card that extends it."""
    fields = {**base, **changes}
    for name, depth in (("config", 1), ("budgets", 2)):
        if name in base and name in changes:
            fields[name] = _merged_mappings(base[name], changes[name], depth)
    return fields


def _merged_mappings(base: Any, changes: Any, depth: int) -> Any:
    if depth == 0 or not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    merged = {key: _merged_mappings(base[key], changes[key], depth - 1) for key in base.keys() & changes.keys()}
    return {**base, **changes, **merged}


@cache
def method_cards() -> dict[str, MethodSpec]:
    """The cards of all shipped and installed methods by name.

    Raises:
        ConfigError: If a card or an entry point is faulty, or two cards have the same name.
    """
    cards: dict[str, MethodSpec] = {}
    for path in [*shipped_files(CARD_DIR), *(path for _, path in entry_point_paths(METHOD_GROUP))]:
        card = read_method_card(path)
        if card.name in cards:
            raise ConfigError(f"{path}: the method name {card.name!r} is taken; choose another name")
        cards[card.name] = card
    return cards


def is_card_path(name: str) -> bool:
    """Whether the name of a method is the path of a card."""
    return name.endswith((".yaml", ".yml"))


def card_file(name: str) -> Path:
    """The file of a card that is given by path; ``~`` is the home folder."""
    return Path(name).expanduser()


def class_file(card: MethodSpec) -> Path | None:
    """The file of a card's class; None if the class belongs to a package."""
    file = card.class_path.rpartition(":")[0]
    return Path(file) if file.endswith(CLASS_FILE) else None


def method_card(name: str) -> MethodSpec:
    """The card of a method.

    Args:
        name: Name of a shipped or installed method, or the path of a card, recognised by ``.yaml`` or ``.yml``.

    Raises:
        ConfigError: If the name is unknown, or the card at the path is faulty or has another method's name.
    """
    cards = method_cards()
    if is_card_path(name):
        card = read_method_card(card_file(name))
        if cards.get(card.name, card) != card:
            raise ConfigError(
                f"{name}: the method name {card.name!r} is taken; give the card another one, for example name: "
                f"my-{card.name}"
            )
        return card
    if name not in cards:
        titles = {known: card.title for known, card in cards.items()}
        raise unknown_name("method", name, titles, advice="Give a method of your own by the path of its card (.yaml).")
    return cards[name]


def card_folder(name: str) -> Path:
    """The folder where relative paths in a card start: the card's own, and for shipped cards the checkout's root.

    Args:
        name: Name of a method, or path of a card.
    """
    if is_card_path(name):
        return _folder_of(card_file(name))
    installed = (path for _, path in entry_point_paths(METHOD_GROUP) if read_method_card(path).name == name)
    return REPOSITORY if (CARD_DIR / f"{name}.yaml").is_file() else next((p.parent for p in installed), REPOSITORY)


def _folder_of(card: Path) -> Path:
    folder = card.resolve().parent
    return REPOSITORY if folder == CARD_DIR.resolve() else folder


def resolve_config(card: MethodSpec, variant: str, budget: BudgetName) -> dict[str, Any]:
    """A method's settings: the defaults, changed by the budget and then by the variant.

    Raises:
        ConfigError: If the variant is unknown, or a budget or variant changes a setting without a default.
    """
    if variant not in card.variants:
        raise unknown_name(f"variant of {card.name}", variant, card.variants)
    config = dict(card.config)
    for where, changes in (
        (f"budget {budget}", card.budgets.get(budget, {})),
        (f"variant {variant}", card.variants[variant].config),
    ):
        for name in changes:
            if name not in config:
                raise unknown_name(f"setting in {where} of {card.name}", name, config)
        config.update(changes)
    return config


def weightless_methods() -> list[str]:
    """Names of all methods that need no pretrained weights."""
    return [card.name for card in method_cards().values() if not card.needs_weights]


def all_methods() -> list[str]:
    """The methods that ``all`` stands for: those that need no pretrained weights and are no part of another one."""
    return [name for name in weightless_methods() if not method_card(name).part_of]
