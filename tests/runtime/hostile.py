"""Folders made to lead astray: each a good one that was changed in one thing, with what must be said of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from .hostile_place import JSON_FILES, MIB, SECRET, Mutation, Place


def _named(name: str, why: str) -> Mutation:
    """List a file by a name that must not be one."""

    def make(place: Place) -> None:
        place.list(name, {"bytes": len(SECRET), "sha256": "0" * 64})

    return Mutation(f"name {name[:20]!r}", make, rf"losparse\.json: field 'files' must name files inside .*: {why}")


def _twins(one: str, other: str) -> Mutation:
    def make(place: Place) -> None:
        for name in (one, other):
            (place.folder / name).write_text("{}")
            place.list(name)

    return Mutation(f"twins {other!r}", make, "must name every file once, got .* which are one file where case")


ELSEWHERE, WINDOWS = "it leads elsewhere", "it means a drive, a stream or a device on Windows"
NAMES = (
    *(
        _named(name, ELSEWHERE)
        for name in ("../outside/canary", "a/../../outside/canary", "..", ".", "", "/etc/passwd")
    ),
    *(_named(name, ELSEWHERE) for name in ("a//b", "a/", "./a", "..\\outside\\canary", "\\\\host\\share\\a")),
    *(_named(name, WINDOWS) for name in ("C:canary", "C:/canary", "model.onnx:stream", "CON", "a/nul.json", "lpt1")),
    *(
        _named(f"a{each}b", "it has characters that cannot be seen")
        for each in "\n\r\0\x1b\x7f\u202e\u2028\ufeff\ud800"
    ),
    *(_named(name, "Windows takes the space or dot at its end off") for name in ("a ", "b.", "a /b")),
    *(
        _named(name, "it has characters with a meaning of their own")
        for name in ("*/_ORT_MEM_ADDR_/*", "a?", 'a"b', "a|b")
    ),
    _named("a" * 300, "a part of it has more than 240 bytes"),
    _named("losparse.json", "that one is not of what it lists"),
    _named("Losparse.JSON.sig", "that one is not of what it lists"),
    _twins("extra.json", "EXTRA.json"),
    _twins("caf\u00e9.json", "cafe\u0301.json"),
    _twins("stra\u00dfe.json", "strasse.json"),
)


def _links_out(name: str) -> Mutation:
    def make(place: Place) -> None:
        content = (place.folder / name).read_bytes()
        (place.outside / name).write_bytes(content)  # the same file, of the same size and digest, but elsewhere
        place.link(name, place.outside / name)

    return Mutation(f"{name} is a link out", make, rf"{name}: is a link that leads out of the folder")


def _links(name: str, target: Callable[[Place], Path | str], says: str) -> Mutation:
    return Mutation(f"tokenizer.json is {name}", lambda place: place.link("tokenizer.json", target(place)), says)


def _folder_links_out(place: Place) -> None:
    place.folder.joinpath("sub").symlink_to(place.outside)
    place.list("sub/canary")


def _blob(name: str, *, link: bool = False, other: bool = False) -> Callable[[Place], Path]:
    """Move the folder into what looks like a hub's cache, and link its tokenizer to something in `blobs`."""

    def make(place: Place) -> Path:
        repo = place.folder.parent / ("other" if other else "repo")
        blobs = repo / "blobs"
        blobs.mkdir(parents=True)
        if link:
            (blobs / name).symlink_to(place.canary)
        else:
            (blobs / name).write_text(SECRET)
        home = place.folder.parent / "repo" / "snapshots"
        home.mkdir(parents=True)
        place.folder.rename(home / "revision")
        place.folder.symlink_to(home / "revision")  # found again by its name
        return blobs / name

    return make


OUT = r"tokenizer\.json: is a link that leads out of the folder"
LINKS = (
    *map(_links_out, ("losparse.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.onnx")),
    _links("a link to a file of the system", lambda place: "/etc/passwd", OUT),
    _links("a link without end", lambda place: "/dev/zero", OUT),
    _links("a link to itself", lambda place: "tokenizer.json", r"cannot be read \(Too many levels of symbolic links\)"),
    _links("a link to nothing", lambda place: "none.json", r"tokenizer\.json: missing, "),
    _links("a link to a folder", lambda place: ".", r"tokenizer\.json: (is a link|cannot be read \(Is a directory)"),
    _links("a link up and down again", lambda place: f"../{place.outside.name}/canary", OUT),
    _links("a link to a blob by another name", _blob("canary"), OUT),
    _links("a link to a blob that is a link", _blob("0" * 64, link=True), OUT),
    _links("a link to a blob of another repository", _blob("0" * 64, other=True), OUT),
    Mutation("a folder is a link out", _folder_links_out, r"sub/canary: is a link that leads out of the folder"),
)


def _special(name: str, kind: str, make: Callable[[Path], object]) -> Mutation:
    def put(place: Place) -> None:
        (place.folder / name).unlink()
        make(place.folder / name)

    return Mutation(f"{name}: {kind}", put, rf"{name}: cannot be read \(Is a {kind}\)|not listed|has no losparse\.json")


def _socket(path: Path) -> None:
    # By a short name: addresses have 107 bytes.
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


SPECIAL = (
    *(_special(name, "named pipe", os.mkfifo) for name in (*JSON_FILES, "tokenizer.json", "model.onnx")),
    *(_special(name, "directory", Path.mkdir) for name in ("losparse.json", "tokenizer.json", "model.onnx")),
    *(_special(name, "socket", _socket) for name in ("config.json", "model.onnx")),
)


def _json(name: str, kind: str, content: Callable[[bytes], bytes], says: str) -> Mutation:
    """Change a JSON file; it was so when the folder was written, so its digest is right."""

    def make(place: Place) -> None:
        file = place.folder / name
        file.write_bytes(content(file.read_bytes()))
        if name != "losparse.json":
            place.list(name)

    return Mutation(f"{name}: {kind}", make, rf"{name}: {says}")


def _add(text: bytes) -> Callable[[bytes], bytes]:
    return lambda old: old.rstrip()[:-1] + b", " + text + b"}"


DEEP = b"[" * 100_000 + b"]" * 100_000
JSON = (
    *(_json(name, "deep", _add(b'"deep": ' + DEEP), "not valid JSON") for name in JSON_FILES),
    *(
        _json(name, "65 levels", _add(b'"deep": ' + b"[" * 65 + b"]" * 65), "not valid JSON .nested")
        for name in JSON_FILES
    ),
    *(
        _json(name, "a key twice", _add(b'"a": 1, "a": 1'), "not valid JSON .the key 'a' is there twice")
        for name in JSON_FILES
    ),
    *(_json(name, "infinite", _add(b'"a": 1e999'), "not valid JSON .1e999 is not a finite") for name in JSON_FILES),
    *(_json(name, "NaN", _add(b'"a": NaN'), "not valid JSON .NaN is not a JSON number") for name in JSON_FILES),
    _json("losparse.json", "5000 digits", _add(b'"a": ' + b"1" * 5000), "not valid JSON"),
    _json("losparse.json", "no text", lambda old: b"\xff" + old, "not valid JSON"),
    _json("losparse.json", "UTF-16", lambda old: old.decode().encode("utf-16"), "not valid JSON"),
    _json("losparse.json", "ends early", lambda old: old[:-20], "not valid JSON"),
    _json("losparse.json", "empty", lambda old: b"", "not valid JSON"),
    _json("tokenizer.json", "deep", lambda old: DEEP, "tokenizers cannot read it"),
    _json("tokenizer.json", "no text", lambda old: b"\xff\xfe", "tokenizers cannot read it"),
)


def _huge(name: str, size: int, says: str) -> Mutation:
    def make(place: Place) -> None:
        os.truncate(place.folder / name, size)  # a hole, so it costs no disk
        if name != "losparse.json":
            place.list(name, {"bytes": size, "sha256": "0" * 64})

    # Whoever compares digests reads the file whole first, which takes as long as the file is large, and says so.
    return Mutation(f"{name}: {size // MIB} MiB", make, rf"{name}: (?:{says}|SHA-256 is )")


def _claims(size: int) -> Mutation:
    def make(place: Place) -> None:
        place.describe(lambda data: data["files"]["model.onnx"].update(bytes=size))

    return Mutation(f"claims of {size} bytes", make, rf"model\.onnx: must have {size} bytes by losparse\.json, has ")


SIZES = (
    *(_huge(name, 20 * MIB, "has more than 16 MiB") for name in JSON_FILES),
    _huge("tokenizer.json", 260 * MIB, "has more than 256 MiB"),
    _huge("model.onnx", 260 * MIB, "is not an ONNX model or is cut short"),
    _claims(0),
    _claims(10**30),
)


def weights_at(location: str, **entries: str) -> TensorProto:
    """A table of the model's words that lies elsewhere."""
    tensor = numpy_helper.from_array(np.ones((12, 4), np.float32), "words")
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def _rewrite(place: Place, change: Callable[[onnx.ModelProto], bytes | None]) -> None:
    """Change the model; it was so when the folder was written."""
    file = place.folder / "model.onnx"
    model = onnx.load(file, load_external_data=False)
    content = change(model)
    file.write_bytes(model.SerializeToString() if content is None else content)
    place.list("model.onnx")


def _external(location: str, **entries: str) -> Callable[[Place], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = [each for each in model.graph.initializer if each.name != "words"]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, weights_at(location, **entries)])

    return lambda place: _rewrite(place, change)


def _weights(name: str, location: str, **entries: str) -> Mutation:
    says = r"takes weights from .*, which losparse\.json does not list|is not an ONNX model"
    return Mutation(f"weights {name}", _external(location, **entries), says)


def _hidden(place: Place) -> None:
    (place.folder / ".w.bin").write_bytes(bytes(192))
    _external(".w.bin")(place)


def _smuggled(place: Place) -> None:
    """Write the graph behind a tag that some readers cut to 32 bits."""
    (place.folder / "w.bin").write_bytes(bytes(192))
    _external("w.bin")(place)

    def change(model: onnx.ModelProto) -> bytes:
        graph = model.graph.SerializeToString()
        model.ClearField("graph")
        return model.SerializeToString() + _varint(1 << 32 | 7 << 3 | 2) + _varint(len(graph)) + graph

    _rewrite(place, change)


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _listed_link(place: Place) -> None:
    (place.outside / "w.bin").write_bytes(bytes(192))
    place.folder.joinpath("w.bin").symlink_to(place.outside / "w.bin")
    place.list("w.bin")
    _external("w.bin")(place)


def _in_a_branch(place: Place) -> None:
    def change(model: onnx.ModelProto) -> None:
        made = helper.make_node("Constant", [], ["inner"], value=weights_at("w.bin"))
        out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [12, 4])
        branch = helper.make_graph([made], "branch", [], [out])
        model.graph.node.append(helper.make_node("If", ["zero"], ["z"], then_branch=branch, else_branch=branch))

    _rewrite(place, change)


def _in_a_function(place: Place) -> None:
    def change(model: onnx.ModelProto) -> None:
        made = helper.make_node("Constant", [], ["y"], value=weights_at("w.bin"))
        sets = [helper.make_opsetid("", 20)]
        model.functions.append(helper.make_function("", "Made", [], ["y"], [made], sets))

    _rewrite(place, change)


def _operator(domain: str, name: str) -> Callable[[Place], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(name, ["hidden"], ["z"], domain=domain))
        model.opset_import.append(helper.make_opsetid(domain, 1))

    return lambda place: _rewrite(place, change)


FOREIGN = "which is no operator of ONNX or onnxruntime; code for others is never loaded"
MODELS = (
    _weights("up", "../outside/canary"),
    _weights("in the system", "/etc/passwd"),
    _weights("through a name with NUL", "model.onnx\0/../../outside/canary"),
    _weights("in memory", "*/_ORT_MEM_ADDR_/*", offset="4096", length="192"),
    _weights("in Windows's way", "..\\outside\\canary"),
    _weights("not there", "w.bin"),
    _weights("under no name", ""),
    Mutation("weights in a hidden file", _hidden, r"takes weights from '\.w\.bin', which"),
    Mutation("weights behind a long tag", _smuggled, r"model\.onnx: is not an ONNX model|holds w\.bin, which losparse"),
    Mutation("weights by a listed link out", _listed_link, r"w\.bin: is a link that leads out of the folder"),
    Mutation("weights in a branch", _in_a_branch, r"takes weights from 'w\.bin', which"),
    Mutation("weights in a function", _in_a_function, r"takes weights from 'w\.bin', which"),
    Mutation("an operator of elsewhere", _operator("ai.onnx.contrib", "PyOp"), rf"ai\.onnx\.contrib\.PyOp, {FOREIGN}"),
    Mutation("a compiled blob", _operator("com.microsoft", "EPContext"), rf"com\.microsoft\.EPContext, {FOREIGN}"),
)


def _beside(name: str, make: Callable[[Place, Path], object]) -> Mutation:
    """Put something into the folder that it does not list: what opens it never looks at it."""
    says = rf"holds {name}, which losparse\.json does not list"
    return Mutation(f"beside: {name}", lambda place: make(place, place.folder / name), says, opens=True)


BESIDE = (
    _beside("link", lambda place, path: path.symlink_to(place.canary)),
    _beside("tree", lambda place, path: path.symlink_to(place.outside)),
    _beside("pipe", lambda place, path: os.mkfifo(path)),
    _beside("socket", lambda place, path: _socket(path)),
    _beside("module.py", lambda place, path: path.write_text("raise SystemExit")),
    _beside("pickle.bin", lambda place, path: path.write_bytes(b"cos\nsystem\n")),
    Mutation(
        "a changed byte",
        lambda place: (place.folder / "config.json").write_text(
            (place.folder / "config.json").read_text().replace("12", "13")
        ),
        r"config\.json: SHA-256 is ",
        opens=True,
    ),
)

MUTATIONS = (*NAMES, *LINKS, *SPECIAL, *JSON, *SIZES, *MODELS, *BESIDE)
