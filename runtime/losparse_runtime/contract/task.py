"""The tasks: what a model of each takes, returns and is measured by. One entry a task, and no fact of it elsewhere.

    TASKS["question-answering"].outputs      ("start_logits", "end_logits")

What belongs to a task and needs more than facts has its own file under the task's name: rows and metric for training
in `losparse/data/tasks/`, the helper of `Session` in `losparse_runtime/tasks/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TASK_FIELD = "losparse_task"
"""Of a model's config.json: the name of its task, where class, problem_type and head say another one, or none."""

Labels = Literal["class", "classes", "number", "span", "none"]
"""What an example is labelled with: one class (a text's, or each of its words'), any number of classes, a number, a
span of its second text, or nothing."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in "text-classification", in recipes, on the command line and in exported folders.
        auto_class: the transformers class that opens a model of it.
        endings: of the class names of such models, by which one is recognised.
        outputs: fields of the model's output that the task reads; a graph has these, in this order.
        labels: what an example is labelled with.
        per_token: whether an output has one row a token: axes batch and sequence first.
        names_classes: whether a folder names the classes of its logits.
        problem: `problem_type` of transformers' configuration, by which tasks with one class name differ; training
            writes it, and by it transformers chooses the loss. A task that shares class and problem with one further
            up in `TASKS` is found by its name alone. None where the class says the task, or transformers' head does
            not read it.
        helper: the method of `Session` that does the task on texts; None where none does.
        metric: the number that a training is judged by, as `losparse.data` calls it; None where nothing is measured.
        causal: whether it predicts the next token of a text, so that its model must not see it.
        trained: whether `losparse compress --train` takes it.
        built: whether `losparse build` takes it.
    """

    name: str
    auto_class: str
    endings: tuple[str, ...]
    outputs: tuple[str, ...]
    labels: Labels
    per_token: bool = False
    names_classes: bool = False
    problem: str | None = None
    helper: str | None = None
    metric: str | None = None
    causal: bool = False
    trained: bool = True
    built: bool = True

    @property
    def classifies(self) -> bool:
        """Whether the largest entry of a row of logits is the answer."""
        return self.labels == "class"

    @property
    def has_classes(self) -> bool:
        """Whether its labels are classes, which a model's configuration names."""
        return self.labels in ("class", "classes")

    def outputs_needed(self, classes: int) -> int | None:
        """Return the rows that a head for so many classes has; None where a task has no head of its own.

        Args:
            classes: how many there are; of no matter where labels are no classes.
        """
        fixed = {"number": 1, "span": len(self.outputs), "none": None}
        return classes if self.has_classes else fixed[self.labels]

    @property
    def pairs(self) -> bool:
        """Whether an example may be of two texts."""
        return not self.per_token or self.labels == "span"

    @property
    def scores_texts(self) -> bool:
        """Whether a model of it has one row of named logits a text."""
        return self.names_classes and not self.per_token

    @property
    def embeds(self) -> bool:
        """Whether its outputs are the vectors of tokens, of which one vector a text is made."""
        return self.helper == "embed"

    def recognises(self, architecture: str, problem: str | None = None, outputs: int | None = None) -> bool:
        """Tell whether a model is one of this task.

        Args:
            architecture: class name of the model, as config.json has it.
            problem: its `problem_type`; None where the configuration does not say.
            outputs: rows of its head; None where nobody knows.
        """
        return architecture.endswith(self.endings) and self.is_problem(problem, outputs)

    def is_problem(self, problem: str | None, outputs: int | None) -> bool:
        """Tell whether a configuration means this task, of those with models of one class; see `recognises`."""
        if self.problem is None:  # the class alone says it
            return True
        if problem is None:  # transformers takes one output for a number as well
            return self.labels == ("number" if outputs == 1 else "class")
        return problem == self.problem


_SEQUENCE = ("ForSequenceClassification",)
_SEQUENCE_CLASS = "AutoModelForSequenceClassification"

TEXT_CLASSIFICATION = Task(
    "text-classification",
    _SEQUENCE_CLASS,
    _SEQUENCE,
    ("logits",),
    "class",
    names_classes=True,
    problem="single_label_classification",
    helper="classify",
    metric="accuracy",
)
MULTI_LABEL_CLASSIFICATION = Task(
    "multi-label-classification",
    _SEQUENCE_CLASS,
    _SEQUENCE,
    ("logits",),
    "classes",
    names_classes=True,
    problem="multi_label_classification",
    helper="classify",
    metric="f1",
)
# A cross-encoder too: pairs in, one score out.
REGRESSION = Task(
    "regression",
    _SEQUENCE_CLASS,
    _SEQUENCE,
    ("logits",),
    "number",
    names_classes=True,
    problem="regression",
    helper="rank",
    metric="pearson",
)
TOKEN_CLASSIFICATION = Task(
    "token-classification",
    "AutoModelForTokenClassification",
    ("ForTokenClassification",),
    ("logits",),
    "class",
    per_token=True,
    names_classes=True,
    helper="tag",
    metric="accuracy",
)
QUESTION_ANSWERING = Task(
    "question-answering",
    "AutoModelForQuestionAnswering",
    ("ForQuestionAnswering",),
    ("start_logits", "end_logits"),
    "span",
    per_token=True,
    helper="answer",
    metric="accuracy",
)
CAUSAL_LM = Task(
    "causal-lm",
    "AutoModelForCausalLM",
    ("ForCausalLM", "LMHeadModel", "ModelWithLMHead", "GenerationDecoder"),
    ("logits",),
    "none",
    per_token=True,
    helper="generate",
    metric="perplexity",
    causal=True,
    built=False,
)
FEATURE_EXTRACTION = Task(
    "feature-extraction",
    "AutoModel",
    ("Model",),
    ("last_hidden_state",),
    "none",
    per_token=True,
    helper="embed",
    trained=False,
)

TASKS: dict[str, Task] = {
    TEXT_CLASSIFICATION.name: TEXT_CLASSIFICATION,
    MULTI_LABEL_CLASSIFICATION.name: MULTI_LABEL_CLASSIFICATION,
    REGRESSION.name: REGRESSION,
    TOKEN_CLASSIFICATION.name: TOKEN_CLASSIFICATION,
    QUESTION_ANSWERING.name: QUESTION_ANSWERING,
    CAUSAL_LM.name: CAUSAL_LM,
    FEATURE_EXTRACTION.name: FEATURE_EXTRACTION,  # last: its ending is the shortest
}


def find_task(
    architecture: str | None,
    problem: str | None = None,
    outputs: int | None = None,
    tasks: Mapping[str, Task] = TASKS,
    *,
    named: str | None = None,
) -> Task | None:
    """Return the task of a model; None where nothing says it.

    Args:
        architecture: its class name; None where nobody knows it. See `Task.recognises`, also for the next two.
        problem: `problem_type` of its configuration.
        outputs: rows of its head.
        tasks: to choose from.
        named: what its configuration has as `TASK_FIELD`. It comes first, unless the head was changed since for
            another kind of task. None where it has none.
    """
    known = tasks.values()
    found = next((task for task in known if architecture and task.recognises(architecture, problem, outputs)), None)
    stated = next((task for task in known if task.name == named), None)
    if stated is None or found is None:
        return stated or found
    kept = stated.auto_class == found.auto_class and (problem is None or stated.problem in (None, problem))
    return stated if kept else found


def meant_task(task: Task, problem: str | None, outputs: int | None, tasks: Mapping[str, Task] = TASKS) -> Task:
    """Return the task that a model's configuration means, where it is called by the name that several tasks share.

    Whatever has one row of logits a text was "text-classification" to earlier exporters, and still is to many users.

    Args:
        task: what the model is called.
        problem: `problem_type` of its configuration; None where that does not say.
        outputs: rows of its head; None where nobody knows.
        tasks: to choose from.
    """
    if task.problem is None or not task.classifies or task.is_problem(problem, outputs):
        return task
    alike = (each for each in tasks.values() if each.endings == task.endings and each.is_problem(problem, outputs))
    return next(alike, task)
