"""Which variant opens where nobody says: every combination of variants, CPU and provider, without the machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from losparse_runtime import InputError, Options, Session, peak_memory, profile_nodes, read_folder, read_metadata
from losparse_runtime.contract.files import write_metadata
from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.variant import DEFAULT_PROVIDER, Variant
from losparse_runtime.engine.choice import Choice, choose_variant, overflowing
from losparse_runtime.engine.chosen import open_chosen, select_here
from losparse_runtime.engine.cpus import CPU_CLASSES, int8_overflows

from .conftest import MakeFolder
from .several import put_together
from .test_runtime_providers import DroppingSession, PretendedSession, pretended

CPU = (DEFAULT_PROVIDER,)
CUDA = ("CUDAExecutionProvider", DEFAULT_PROVIDER)
OTHER = ("DmlExecutionProvider",)
NAMES = ("fp32", "int8", "int8-vnni", "int8-static", "int8-rows", "fp16", "int8-weights", "int4-weights")
BEST = {
    "wide": ("int8-vnni", "int8", "int8-static", "int8-rows", "fp32", "int8-weights", "int4-weights", "fp16"),
    "narrow": ("int8", "int8-static", "int8-rows", "fp32", "int8-weights", "int4-weights", "fp16"),
    "unknown": ("int8", "int8-static", "int8-rows", "fp32", "int8-weights", "int4-weights", "fp16", "int8-vnni"),
    "gpu": ("fp16", "fp32", "int8-weights", "int4-weights", "int8", "int8-static", "int8-rows", "int8-vnni"),
}
OF_CPU = {"cpu-amx": "wide", "cpu-avx512-vnni": "wide", "arm": "wide", "cpu-avx2": "narrow", "unknown": "unknown"}


@pytest.fixture
def plain(make_folder: MakeFolder) -> Folder:
    return read_folder(make_folder().path)


def holding(plain: Folder, names: Sequence[str], **changes: dict[str, Any]) -> Folder:
    """A folder of these variants, without files; changes are fields of `Variant` by name, with "_" for "-"."""
    (model,) = plain.variants.values()
    variants: dict[str, Variant] = {}
    for name in names:
        bits = {"int8": 7, "int8-vnni": 8, "int8-static": 7, "int8-rows": 7}.get(name)
        precision = "int8" if name == "int8-vnni" else name
        mixes = {"mixes_texts": precision == "int8"}
        fields = {"precision": precision, "weight_bits": bits, **mixes, **changes.get(name.replace("-", "_"), {})}
        variants[name] = replace(model, **fields)
    return replace(plain, variants=variants)


def test_every_set_of_variants_on_every_cpu_and_provider(plain: Folder) -> None:
    sets = [names for count in range(1, 9) for names in combinations(NAMES, count)]
    assert len(sets) == 255 and set(OF_CPU) == set(CPU_CLASSES)
    for names in sets:
        folder = holding(plain, names)
        for cpu, kind in OF_CPU.items():
            order = BEST[kind]
            found = choose_variant(folder, cpu, CPU)
            # What overflows is chosen where it is alone: opening it says why not, and what to do.
            assert found.name == next((name for name in order if name in names), names[0]), (names, cpu)
            assert found.name != "int8-vnni" or cpu != "cpu-avx2" or len(names) == 1
            on_gpu = choose_variant(folder, cpu, CUDA).name
            fits = [name for name in BEST["gpu"] if name in names and (name != "int8-vnni" or cpu != "cpu-avx2")]
            assert on_gpu == (fits or names)[0], (names, cpu)
            mentioned = [name for name in names if f"{name} (" in found.reason or f"variant {name}" in found.reason]
            assert len(mentioned) == len(names) and "\n" not in found.reason


INVARIANT = {
    "wide": ("int8-static", "int8-rows", "int8-vnni", "int8", "fp32", "int8-weights", "int4-weights", "fp16"),
    "narrow": ("int8-static", "int8-rows", "int8", "fp32", "int8-weights", "int4-weights", "fp16"),
    "unknown": ("int8-static", "int8-rows", "int8", "fp32", "int8-weights", "int4-weights", "fp16", "int8-vnni"),
    "gpu": BEST["gpu"],
}


def test_every_set_where_no_text_may_change_another(plain: Folder) -> None:
    """What mixes texts runs them one by one, so what does not comes first, but for fp32, which is slower still."""
    for names in (names for count in range(1, 9) for names in combinations(NAMES, count)):
        folder = holding(plain, names)
        for cpu, kind in OF_CPU.items():
            found = choose_variant(folder, cpu, CPU, invariant=True)
            assert found.name == next((name for name in INVARIANT[kind] if name in names), names[0]), (names, cpu)
            mixing = [name for name in names if name in ("int8", "int8-vnni")]
            said = [name for name in mixing if name != "int8-vnni" or cpu != "cpu-avx2" or len(names) == 1]
            assert found.reason.count("one text at a time") == len(said), (names, cpu, found.reason)
            fits = [name for name in INVARIANT["gpu"] if name in names and (name != "int8-vnni" or cpu != "cpu-avx2")]
            assert choose_variant(folder, cpu, CUDA, invariant=True).name == (fits or names)[0]


def test_what_its_exporter_saw_mix_texts_runs_alone_too(plain: Folder) -> None:
    mates = {"max_abs": 0.5, "cosine": 0.9, "top1_agreement": 1.0, "texts": 12}
    moved = {"max_abs": 0.1, "max_rel": 0.1, "tolerance": 0.2, "cases": [], "batch_mates": mates}
    folder = holding(plain, ("fp32", "int8-static", "int8-rows"), int8_static={"parity": moved})
    assert choose_variant(folder, "cpu-amx", CPU).name == "int8-static"
    assert choose_variant(folder, "cpu-amx", CPU, invariant=True) == Choice(
        "int8-rows",
        "variant int8-rows on cpu-amx, the first in the order for it; not int8-static (later in that order, one text "
        "at a time), fp32 (later in that order)",
    )


def test_times_of_one_text_after_another(plain: Folder) -> None:
    """int8 takes 1 ms a text, so 8 for eight of them, whatever they take together: rows are faster there, not alone."""
    times = {
        "int8": {"times": {"cpu-amx 1x16 1t": 1.0, "cpu-amx 8x16 1t": 2.0, "cpu-amx 4x99 1t": 0.1, "cpu-amx odd": 1.0}},
        "int8_rows": {"times": {"cpu-amx 1x16 1t": 1.5, "cpu-amx 8x16 1t": 3.0, "cpu-amx 4x99 1t": 9.0}},
    }
    folder = holding(plain, ("int8", "int8-rows", "fp32"), **times)
    assert choose_variant(folder, "cpu-amx", CPU).name == "int8"
    # The geometric mean of 1 and 8 is 2.83, of 1.5 and 3 it is 2.12; nobody timed one text of 99 tokens.
    assert choose_variant(folder, "cpu-amx", CPU, invariant=True) == Choice(
        "int8-rows",
        "variant int8-rows on cpu-amx, the fastest as timed on this class of CPU; not int8 (1.33 times as long, one "
        "text at a time), fp32 (not timed by the same calls)",
    )
    single = {name: {"times": {"cpu-amx 1x16 1t": each["times"]["cpu-amx 1x16 1t"]}} for name, each in times.items()}
    assert choose_variant(holding(plain, ("int8", "int8-rows"), **single), "cpu-amx", CPU, invariant=True) == Choice(
        "int8",
        "variant int8 on cpu-amx, the fastest as timed on this class of CPU, one text at a time; "
        "not int8-rows (1.50 times as long)",
    )


def test_other_providers_take_fp32(plain: Folder) -> None:
    assert choose_variant(holding(plain, NAMES), "cpu-amx", OTHER).name == "fp32"
    assert choose_variant(holding(plain, ("int8", "fp16")), "cpu-amx", OTHER).name == "fp16"
    assert choose_variant(holding(plain, ("int8", "int4-weights")), "cpu-amx", OTHER).name == "int8"


def test_the_fastest_of_those_that_were_timed_on_this_class_of_cpu(plain: Folder) -> None:
    times = {
        "fp32": {"times": {"cpu-amx 1x128 1t": 4.0, "cpu-amx 8x16 1t": 1.0, "cpu-avx2 1x128 1t": 9.0}},
        "int8": {"times": {"cpu-amx 1x128 1t": 3.0, "cpu-amx 8x16 1t": 3.0}},
        "int8_vnni": {"times": {"cpu-avx512-vnni 1x128 1t": 0.1}},
    }
    folder = holding(plain, ("int8-vnni", "int8", "fp32"), **times)
    assert choose_variant(folder, "cpu-amx", CPU) == Choice(
        "fp32",
        "variant fp32 on cpu-amx, the fastest as timed on this class of CPU; "
        "not int8 (1.50 times as long), int8-vnni (not timed by the same calls)",
    )
    # One alone tells nothing, nor do times of another class of CPU, nor those of a CPU where a GPU runs.
    assert choose_variant(folder, "cpu-avx512-vnni", CPU).name == "int8-vnni"
    assert choose_variant(folder, "cpu-avx2", CPU).name == "int8"
    assert choose_variant(folder, "cpu-amx", CUDA).name == "fp32"


def test_times_of_calls_that_not_all_were_timed_by_count_for_nothing(plain: Folder) -> None:
    different = {"fp32": {"times": {"cpu-amx 1x128 1t": 1.0}}, "int8": {"times": {"cpu-amx 8x16 1t": 9.0}}}
    assert choose_variant(holding(plain, ("fp32", "int8"), **different), "cpu-amx", CPU).name == "int8"


def test_a_fast_one_that_overflows_is_never_chosen(plain: Folder) -> None:
    times = {
        name: {"times": {"cpu-avx2 1x128 1t": ms}} for name, ms in (("int8_vnni", 1.0), ("int8", 3.0), ("fp32", 2.0))
    }
    found = choose_variant(holding(plain, ("int8-vnni", "int8", "fp32"), **times), "cpu-avx2", CPU)
    assert found.name == "fp32" and "int8-vnni (overflows without VNNI)" in found.reason


def test_one_made_for_another_provider_waits_for_it(plain: Folder) -> None:
    folder = holding(plain, ("fp32", "int8", "fp16"), fp16={"provider": CUDA[0]})
    assert choose_variant(folder, "cpu-amx", CUDA).reason == (
        f"variant fp16 on {CUDA[0]}, the first in the order for it; "
        f"not fp32 (made for {DEFAULT_PROVIDER}), int8 (made for {DEFAULT_PROVIDER})"
    )
    folder = holding(plain, ("fp16", "fp32"), fp16={"provider": CUDA[0]}, fp32={"provider": CUDA[0]})
    assert choose_variant(folder, "cpu-amx", CPU).name == "fp32", "where none is for ours, all of them are there"


def test_one_that_was_not_compared_is_not_chosen(plain: Folder) -> None:
    found = choose_variant(holding(plain, ("fp32", "int8"), int8={"parity": None}), "cpu-amx", CPU)
    assert found.name == "fp32" and "int8 (not compared with PyTorch)" in found.reason


def test_a_variant_of_another_name_is_known_by_its_precision(plain: Folder) -> None:
    folder = holding(plain, ("fp32", "mine"), mine={"precision": "int8", "weight_bits": 7})
    assert choose_variant(folder, "cpu-amx", CPU).name == "mine"


@pytest.fixture
def both(make_folder: MakeFolder, tmp_path: Path) -> Path:
    """fp32, and an int8 that answers otherwise."""
    folders = {"fp32": make_folder().path, "int8": make_folder(name="other", seed=1).path}
    return put_together(tmp_path / "both", folders, int8={"precision": "int8", "weight_bits": 7})


def test_a_session_of_which_no_text_may_change_another_chooses_by_it(make_folder: MakeFolder, tmp_path: Path) -> None:
    folders = {"int8": make_folder().path, "int8-rows": make_folder(name="other", seed=1).path}
    kinds = {name: {"precision": name, "weight_bits": 7, "mixes_texts": name == "int8"} for name in folders}
    both = put_together(tmp_path / "both", folders, **kinds)
    assert Session(both, threads=1).variant == "int8"
    chosen = Session(both, threads=1, batch_invariant=True)
    assert chosen.variant == "int8-rows" and "int8 (later in that order, one text at a time)" in chosen.choice
    assert chosen.options.batch_invariant
    alone = put_together(tmp_path / "alone", {"int8": folders["int8"]}, int8=kinds["int8"])
    assert Session(alone, threads=1, batch_invariant=True).choice == "variant int8, the only one, one text at a time"
    assert Session(both, threads=1, batch_invariant=True, variant="int8").variant == "int8"


def test_a_session_says_what_it_chose(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "losparse_runtime"):
        session = Session(both, threads=1)
    reason = "variant int8 on cpu-avx2, the first in the order for it; not fp32 (later in that order)"
    assert (session.variant, session.choice) == ("int8", reason)  # the class is what tests/conftest.py sets
    assert f"{both}: {reason}" in caplog.messages and "variant='int8'" in repr(session)
    told = Session(both, threads=1, variant="fp32")
    assert (told.variant, told.choice) == ("fp32", "variant fp32, as asked for")
    with pytest.raises(InputError, match=r"variant must be one of those the folder has \(fp32, int8\), got 'int4'$"):
        Session(both, threads=1, variant="int4")
    assert read_metadata(both).variant_name == "fp32", "reading alone chooses nothing"


def test_what_opens_a_folder_once_more_opens_the_same(both: Path) -> None:
    session = Session(both, threads=1)
    assert session.options.variant == "int8"
    assert peak_memory(both, session.options, length=4) > 0
    other = both / "model_fp32.onnx"
    other.write_bytes(bytes(other.stat().st_size))  # so that opening it would fail
    assert profile_nodes(both, Options(CPU, 1), length=4, runs=1)


def test_a_fallback_chooses_for_what_there_is(both: Path) -> None:
    contents = read_folder(both)
    made = replace(contents.variants["fp32"], provider=CUDA[0])
    write_metadata(both, replace(contents, variants={**contents.variants, "fp32": made}))

    class Ort:
        available = (DEFAULT_PROVIDER,)

        def get_available_providers(self) -> Sequence[str]:
            return self.available

    wanted = Options((CUDA[0],), 1, allow_fallback=True)
    metadata, choice = select_here(both, wanted, Ort())
    assert (metadata.variant_name, choice.name) == ("int8", "int8")
    Ort.available = CUDA
    assert select_here(both, wanted, Ort())[1].name == "fp32"


def test_a_folder_of_one_variant_asks_for_no_class_of_cpu(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSPARSE_CPU", "nonsense")
    session = Session(make_folder().path, threads=1)
    assert (session.variant, session.choice) == ("fp32", "variant fp32, the only one")


def test_what_overflows_is_named_with_its_bits(plain: Folder) -> None:
    folder = holding(plain, NAMES)
    assert overflowing(folder, overflows=False) == {}
    assert overflowing(folder, overflows=True) == {
        "int8-vnni": "its weights have 8 bits, with which int8 products overflow on this CPU"
    }
    assert overflowing(folder) == overflowing(folder, overflows=int8_overflows())


@pytest.mark.parametrize(("kind", "expected"), [(PretendedSession, "fp32"), (DroppingSession, "int8")])
def test_where_onnxruntime_falls_back_another_variant_is_best(both: Path, kind: type, expected: str) -> None:
    options = Options((CUDA[0],), 1, allow_fallback=True)
    opened = open_chosen(both, options, ort=pretended(InferenceSession=kind))
    assert opened.metadata.variant_name == opened.choice.name == expected
    assert Path(opened.session._model_path).name == f"model_{expected}.onnx"
    told = open_chosen(both, replace(options, variant="fp32"), ort=pretended(InferenceSession=kind))
    assert told.choice == Choice("fp32", "variant fp32, as asked for")
