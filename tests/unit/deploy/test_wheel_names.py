"""How the wheel's build renames imports (deploy/wheel/rename_imports.py)."""

from __future__ import annotations

import ast

import pytest
from support.fleets.deploy_files import load_script

MODULES = frozenset({"service", "service.core", "service.core.places", "model", "model.inference", "model.__main__"})
names = load_script("wheel/rename_imports.py")


def renamed(source: str) -> str:
    text: str = names.rename_imports(source, MODULES, name="a.py")
    ast.parse(text)
    return text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from service.core import places\n", "from avesformer.service.core import places\n"),
        ("from model import inference\n", "from avesformer.model import inference\n"),
        ("import av, service.core as core\n", "import av, avesformer.service.core as core\n"),
        (
            "if True: from  service.core import (\n  places,\n)\n",
            "if True: from  avesformer.service.core import (\n  places,\n)\n",
        ),
        ("x = 1; from service.core import places\n", "x = 1; from avesformer.service.core import places\n"),
        (
            "def é():\n    'é'; from service.core import places\n",
            "def é():\n    'é'; from avesformer.service.core import places\n",
        ),
    ],
)
def test_an_import_of_ours_is_renamed(before: str, after: str) -> None:
    assert renamed(before) == after


@pytest.mark.parametrize(
    "source",
    [
        "from services.core import x\nfrom .service import y\nimport models\nfrom other.service.core import z\n",
        "def f(service):\n    yield from service.core\n    raise ValueError from service.core.places\n",
        "service.core.places(model.inference)\n",
        'name = f"{service.core.places} {model.inference}"\n',
        'figure, weights = "service.c1.p50_s", "model.safetensors"\n',
        'path, kind = "service/core/places.py", "model"\n',
        'already = "avesformer.service.core.places"\n',
        "# see service.core.places\n",
    ],
)
def test_everything_else_stays(source: str) -> None:
    assert renamed(source) == source


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('M = "service.core.places"\n', 'M = "avesformer.service.core.places"\n'),
        ('M = ("model.inference:run", 1)\n', 'M = ("avesformer.model.inference:run", 1)\n'),
        (
            'CODE = """\nfrom service.core import places\nimport service.core\n"""\n',
            'CODE = """\nfrom avesformer.service.core import places\nimport avesformer.service.core\n"""\n',
        ),
        ('"""Run `python -m model` or\n`python -m service.core.places`."""\n', None),
        ("f'{{}} {x} -m service.core.places {y}'\n", "f'{{}} {x} -m avesformer.service.core.places {y}'\n"),
    ],
)
def test_a_string_that_names_a_module_is_renamed(before: str, after: str | None) -> None:
    expected = after or before.replace("-m ", "-m avesformer.")
    assert renamed(before) == expected


def test_an_import_that_binds_the_old_name_is_refused() -> None:
    with pytest.raises(names.RenameError, match=r"a\.py:2: write `from … import`, not `import service\.core`"):
        renamed("x = 1\nimport service.core\n")
