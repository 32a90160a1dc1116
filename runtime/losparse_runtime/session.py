"""`Session`: an exported folder, open and ready to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Unpack

from numpy.typing import NDArray

from .contract.config import read_model_config
from .contract.files import read_metadata
from .contract.metadata import Metadata
from .contract.signature import Signature
from .contract.task import TASKS, meant_task
from .contract.tensors import Arrays, TensorSpec
from .contract.variant import DEFAULT_PROVIDER
from .engine.alone import depends_on_batch, run_alone
from .engine.chosen import open_chosen
from .engine.cpus import available_cpus
from .engine.held import Closable, Held
from .engine.options import FAST, Options, Provider, provider_settings
from .engine.running import device_of, running, warm_up
from .errors import FolderError, RunError, one_line
from .generation.loop import Generation
from .generation.model import BATCH_SIZE, LanguageModel
from .generation.prompts import Prompt
from .generation.settings import Choices
from .generation.streaming import TextStream
from .tasks.answer import Answer, answer
from .tasks.classify import Classification, classify
from .tasks.embed import embed
from .tasks.generate import generate, stream
from .tasks.rank import Ranked, rank
from .tasks.scoring import ANSWER_STRIDE, MAX_ANSWER_TOKENS
from .tasks.tag import Tag, tag
from .text.encoder import TextEncoder
from .trust.seal import Seal


class Session(Closable):
    """An exported ONNX folder, open in onnxruntime. Nothing changes after opening; threads may share one session.

    Forked processes may not: each opens its own, after the fork. A pickled session is its folder's path and how it was
    opened; whoever loads it opens the same folder once more. `with Session(folder) as session:` closes it at the end.

    Args:
        folder: a folder that `losparse export` wrote.
        providers: full names of onnxruntime execution providers, most wanted first, or pairs of a name and options of
            the provider, as in ("CUDAExecutionProvider", {"device_id": 1}). onnxruntime adds the CPU provider at the
            end for operators that the others do not have.
        threads: threads inside one operator; all CPUs that the affinity mask and the cgroup quota grant by default.
        allow_fallback: run without a provider that is not there, and log a warning, instead of raising.
        batch_invariant: what is said of a text does not depend on the other texts of its batch. Where it may - in
            precision "int8", where the folder pads on the left, or where its exporter measured that it does - every
            text of a batch is run by itself, at its own length. A folder that holds a form whose texts do not mix,
            "int8-rows" say, opens that one.
        spinning: let idle threads wait busily. Right for one model alone on its cores; switch it off where several
            sessions or other work share them.
        variant: which form of the model to open, as in "int8", where the folder holds several; by default the one that
            is best on this CPU and provider, as `engine.choice` says and `choice` explains.
        graph: which graph to open, as in "decoder", where the model has several; the first by default.
        unchecked: open a folder whose model was not compared with PyTorch yet; for the exporter, which compares it.
        cpu_nodes: let operators that the providers do not have run on the CPU; False refuses such a model.
        verify: True to compare the SHA-256 of every file with the one that `losparse.json` lists, and to refuse what it
            does not list; or the PEM file of a public key, which must have signed the folder as well. Sizes are always
            compared.
        memory: "fast" or "flat": what onnxruntime keeps between runs. "fast" is best for few shapes and grows with
            many; "flat" keeps what the largest run so far needed. What each costs: `docs/production.md`.
        warmup: shapes (batch, length) that are run once while the session is opened, on made-up tokens: the first run
            of a shape takes longer, on GPUs by far.

    Attributes:
        choice: why this variant was opened, and why not the others; one line.
        providers: the execution providers that onnxruntime really uses, in order.
        signature: what the model takes and returns; it checks inputs as `run` does, and makes some up.

    Raises:
        FolderError: the folder is missing, damaged, or its metadata does not describe its model; or `verify` finds
            something.
        ProviderError: a provider is unknown, not installed, was dropped by onnxruntime, or has not an option; or it
            does not have all operators, and cpu_nodes is False.
        InputError: threads is not a whole number >= 1, the folder has no such variant or graph, cpu_nodes is False
            beside the CPU provider, `verify` names no public key, memory is another word, or a shape of warmup is none
            that the model takes.
        DependencyError: onnxruntime is not installed, or cryptography is not where a key is given.
    """

    def __init__(
        self,
        folder: Path | str,
        providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
        threads: int | None = None,
        allow_fallback: bool = False,
        *,
        batch_invariant: bool = False,
        spinning: bool = True,
        variant: str | None = None,
        graph: str | None = None,
        unchecked: bool = False,
        cpu_nodes: bool = True,
        verify: bool | Path | str = False,
        memory: str = FAST,
        warmup: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.folder = Path(folder)
        seal = None if verify is False else Seal(self.folder, verify)
        settings = provider_settings(providers)
        options = Options(
            tuple(settings),
            available_cpus() if threads is None else threads,
            allow_fallback,
            spinning,
            variant,
            graph,
            unchecked,
            {name: options for name, options in settings.items() if options},
            cpu_nodes,
            verify if isinstance(verify, bool) else str(Path(verify).absolute()),
            memory,
            batch_invariant,
        )
        opened = open_chosen(self.folder, options)
        self._held = Held(opened.session, self.folder)
        self.providers: tuple[str, ...] = tuple(opened.session.get_providers())
        self._running = running(self.providers, options)
        self.metadata: Metadata = opened.metadata
        self.choice: str = opened.choice.reason
        # With the name: whatever opens the folder once more, as for its memory, opens the same variant.
        self.options = replace(options, variant=opened.choice.name)
        self.config = read_model_config(self.folder)
        self.signature: Signature = self.metadata.signature.within(self.config.vocabulary, self.metadata.max_length)
        self.encoder = TextEncoder(
            self.folder, self.max_length, self.config.pad_token_id, self.metadata.type_ids, self.config.vocab_size
        )
        if seal is not None:
            self.encoder.load()
            seal.confirm()
        self._alone = batch_invariant and depends_on_batch(self.metadata, self.encoder.padding_side)
        self._warmup = tuple(warmup)
        warm_up(self.run, self.signature, self._warmup)

    def _free(self) -> None:
        """Let go of the tokenizer."""
        self.encoder.forget()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: where the folder is, which model was open, and how."""
        with self._held.use():
            arguments = self.options.arguments() | {"warmup": self._warmup}
            return {"folder": self.folder.absolute(), "fingerprint": self.metadata.fingerprint, "arguments": arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the folder again, if it still holds the same model.

        Raises:
            FolderError: it holds another one, or cannot be opened; as the others of opening.
        """
        folder, arguments = state["folder"], state["arguments"]
        found = read_metadata(folder, arguments["variant"], arguments["graph"]).fingerprint
        if found != state["fingerprint"]:
            raise FolderError(
                f"{folder}: holds model {found[:16]}..., the pickled Session had {state['fingerprint'][:16]}... open; "
                "the folder was written anew since: open it with Session(folder)"
            )
        Session.__init__(self, folder, **arguments)

    def __repr__(self) -> str:
        """Folder, task, providers and threads."""
        return (
            f"Session({str(self.folder)!r}, task={self.task!r}, variant={self.variant!r}, "
            f"providers={self.providers!r}, threads={self.threads})"
        )

    @property
    def task(self) -> str:
        """What the model does, a key of `TASKS`.

        Earlier exporters gave one name to every model with one row of logits a text; of these it is what config.json
        says, as it always was in what they answered.
        """
        outputs = None if self.labels is None else len(self.labels)
        return meant_task(TASKS[self.metadata.task], self.config.problem_type, outputs).name

    @property
    def variant(self) -> str:
        """Name of the variant that is open."""
        return self.metadata.variant_name

    @property
    def runs_alone(self) -> bool:
        """Whether every text of a batch is run by itself: asked for by `batch_invariant`, and needed here."""
        return self._alone

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by class id; None where the task has none."""
        return self.metadata.labels

    @property
    def max_length(self) -> int:
        """Positions the model has, in tokens."""
        return self.metadata.max_length

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs."""
        return self.signature.outputs

    @property
    def carried(self) -> dict[str, str]:
        """What the model file says of itself, by key; `losparse.description` holds what it was exported as."""
        with self._held.use() as session:
            return dict(session.get_modelmeta().custom_metadata_map)

    @property
    def threads(self) -> int:
        """Threads inside one operator."""
        return self.options.threads

    def encode(
        self, texts: str | Iterable[str], pairs: str | Iterable[str] | None = None, max_length: int | None = None
    ) -> Arrays:
        """Turn texts into the model's token inputs.

        Args:
            texts: the texts; a bare string is one text.
            pairs: the second text of each pair, for models of two texts.
            max_length: tokens kept of each text, special tokens included; `self.max_length` by default. Longer texts
                are cut and a warning is logged.

        Returns:
            `input_ids`, `attention_mask` and, where the model has them, `token_type_ids`: int64 (batch, sequence),
            padded to the longest text.

        Raises:
            InputError: something that is not a text, no text at all, or a bad max_length.
            TokenizerError: the folder has no usable tokenizer.
            DependencyError: tokenizers is not installed.
        """
        with self._held.use():
            return self.feed(self.encoder.arrays(self.encoder.encodings(texts, pairs, max_length)))

    def feed(self, arrays: Arrays) -> Arrays:
        """The arrays that are inputs of this model, without the others."""
        return self.signature.pick(arrays)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run the model once.

        Args:
            inputs: arrays by input name; int64 (batch, sequence) for token inputs. `attention_mask` (ones) and
                `token_type_ids` (zeros) may be left out.

        Returns:
            Arrays by output name. NaN and infinities are returned as they are: a row whose mask is all 0 may hold them.

        Raises:
            InputError: a name, type, dtype, rank, size, length or value is wrong.
            RunError: onnxruntime failed, the session was closed, or this process was forked from the one that opened
                it.
        """
        with self._held.use():
            return self.run_checked(self.signature.check(inputs))

    def run_checked(self, checked: Arrays) -> Arrays:
        """Run the model once on what `signature.check` returned, or what was joined of it; see `run`."""
        with self._held.use() as session:
            once = partial(self._run, session)
            return run_alone(once, checked, self.signature) if self._alone else once(checked)

    def _run(self, session: Any, checked: Arrays) -> Arrays:
        names = [spec.name for spec in self.outputs]
        try:
            values = self._running(session, names, checked)
        except Exception as error:  # onnxruntime's own errors have no common base below Exception
            name, array = next(iter(checked.items()))
            raise RunError(f"{self.folder}: onnxruntime failed on {name} {array.shape}: {one_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def classify(
        self, texts: str | Iterable[str], batch_size: int = 32, *, pairs: str | Iterable[str] | None = None
    ) -> list[Classification]:
        """Classify texts or text pairs; see `tasks.classify.classify`."""
        with self._held.use():
            return classify(self, texts, batch_size, pairs)

    def rank(self, query: str, texts: str | Iterable[str], batch_size: int = 32) -> list[Ranked]:
        """Sort texts by how well each goes with a query, the best first; see `tasks.rank.rank`."""
        with self._held.use():
            return rank(self, query, texts, batch_size)

    def embed(
        self,
        texts: str | Iterable[str],
        batch_size: int = 32,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> NDArray[Any]:
        """One vector a text, float32 (texts, features); see `tasks.embed.embed`."""
        with self._held.use():
            return embed(self, texts, batch_size, prompt_name=prompt_name, prompt=prompt)

    def tag(self, texts: str | Iterable[str], batch_size: int = 32, *, words: bool = True) -> list[list[Tag]]:
        """Label every word, or every token; see `tasks.tag.tag`."""
        with self._held.use():
            return tag(self, texts, batch_size, words=words)

    def answer(
        self,
        question: str,
        context: str,
        *,
        max_tokens: int = MAX_ANSWER_TOKENS,
        stride: int = ANSWER_STRIDE,
        may_be_none: bool = False,
    ) -> Answer:
        """Find the span of the context that answers the question; see `tasks.answer.answer`."""
        with self._held.use():
            return answer(self, question, context, max_tokens=max_tokens, stride=stride, may_be_none=may_be_none)

    def generate(
        self, prompts: Prompt | Iterable[Prompt], batch_size: int = BATCH_SIZE, **choices: Unpack[Choices]
    ) -> list[Generation]:
        """Continue texts, token ids or conversations; see `tasks.generate.generate`."""
        with self._held.use():
            return generate(self, prompts, batch_size, **choices)

    def stream(self, prompt: Prompt, **choices: Unpack[Choices]) -> TextStream:
        """Continue one of them, piece by piece; see `tasks.generate.stream`."""
        with self._held.use():
            return stream(self, prompt, **choices)

    @cached_property
    def language_model(self) -> LanguageModel:
        """What continues prompts, of the folder of a language model."""
        return LanguageModel(self, self._held.use, device_of(self.providers, self.options))
