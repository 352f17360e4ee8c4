"""The registry for programs: what the pages show, and what promoters decide."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from components.registry import HistoryEntry
from components.registry.certificates import certificates
from components.registry.gates.files import names as gate_names
from components.registry.signing import Signed
from vila_core.errors import Conflict, Damaged, NotFound, UserError
from vila_core.store import Store
from vila_ops.registry import rollback as deciding
from vila_ops.registry.promote import Judgement, promote
from vila_ops.registry.subject import baseline_of, results_of
from vila_ops.web import registry_view as view
from vila_ops.web.api.problem import ERRORS
from vila_ops.web.audit import note
from vila_ops.web.forms import checked_json
from vila_ops.web.judging import Question, judging_of
from vila_ops.web.loading import store_of
from vila_ops.web.roles import Role, Viewer, needs, viewer_of
from vila_ops.web.signed import Marks, marks

JUDGE_SECONDS = 60.0
_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"

router = APIRouter(
    prefix="/api/v1/registry",
    responses=ERRORS,
    tags=["registry"],
    dependencies=[Depends(checked_json)],
)

Model = Annotated[str, Path(pattern=_NAME, description="Name of a model.")]
Number = Annotated[int, Path(ge=1, le=10**9, description="Number of a version.")]
Most = Annotated[int, Query(ge=1, le=200, description="How many at most, the newest first.")]
Skip = Annotated[int, Query(ge=0, le=10**9, description="How many of the newest to pass over.")]
Promoter = Annotated[Viewer, Depends(needs(Role.promoter))]
SignatureState = Annotated[
    str,
    Field(description="valid, bad, unsigned, unknown key, or unknown where it can't be checked."),
]
Reason = Annotated[str, Field(max_length=2000, description="Why; kept for ever.")]


class AliasOut(BaseModel):
    """Where an alias stands."""

    alias: str
    version: int
    since: str
    who: str
    why: str
    gates_passed: bool | None = Field(description="null where no gates were asked.")
    forced: bool
    entry: int


class ModelOut(BaseModel):
    """A model."""

    name: str
    versions: int
    newest: int | None
    aliases: list[AliasOut]
    problem: str = Field(description="Why its history can't be trusted; empty if it can.")


class ModelsOut(BaseModel):
    """All models."""

    models: list[ModelOut]
    foreign: list[str] = Field(description="Folders in the registry that can't be a model.")


class VersionRow(BaseModel):
    """A version in a list."""

    model: str
    version: int
    aliases: list[str]
    gates_passed: bool | None = Field(description="null where no gates were asked.")
    decision: str = Field(description="approved, rejected, or empty.")
    forced: bool
    run_id: str
    created_at: str
    created_by: str
    artifact: str
    signed: bool
    problem: str = Field(description="Why its record can't be read; empty if it can.")


class VersionsOut(BaseModel):
    """The versions of a model."""

    model: ModelOut
    versions: list[VersionRow]
    total: int


class VerdictOut(BaseModel):
    """What a gate found."""

    passed: bool
    kind: str
    text: str
    gate: str
    asked: str
    fix: str


class FileOut(BaseModel):
    """A file of a version."""

    path: str
    size: int
    sha256: str


class VersionOut(BaseModel):
    """A version with all that is known of it."""

    row: VersionRow
    metrics: dict[str, float]
    results: str
    baseline: str
    gates: list[VerdictOut]
    evidence: dict[str, Any]
    lineage: dict[str, Any]
    exports: dict[str, dict[str, Any]] = Field(
        description="By layout: the proof that an export gives the same logits."
    )
    exports_problem: str
    signature: SignatureState
    signature_text: str
    files: list[FileOut]
    files_problem: str


class EntryOut(BaseModel):
    """An entry of the history."""

    seq: int
    kind: str
    version: int
    alias: str | None
    before: int | None
    who: str
    when: str
    why: str
    forced: bool
    gates_passed: bool | None
    digest: str
    previous: str
    signature: SignatureState
    signature_text: str
    evidence: dict[str, Any]


class HistoryOut(BaseModel):
    """The history of a model, the newest entry first."""

    entries: list[EntryOut]
    total: int
    problem: str = Field(description="Why the chain is not whole; empty if it is.")


class PromoteIn(BaseModel):
    """What to promote where."""

    model_config = ConfigDict(extra="forbid")

    what: str = Field(min_length=1, max_length=200, description="RUN, RUN:TASK, MODEL@VERSION.")
    to: str = Field(pattern=_NAME, description="The alias.")
    model: str | None = Field(default=None, pattern=_NAME, description="As the run says.")
    gates: str | None = Field(default=None, max_length=64, description="Name of gates.")
    why: Reason = ""
    force: bool = Field(default=False, description="Although gates fail; needs admin and why.")
    dry_run: bool = Field(default=False, description="Only ask the gates.")


class PromoteOut(BaseModel):
    """What the gates said, and the entry if the alias moved."""

    dry_run: bool
    passed: bool
    model: str
    alias: str
    before: int | None
    version: int | None = Field(description="null where it would become a new version.")
    gates_name: str
    gates: list[VerdictOut]
    evidence: dict[str, Any]
    entry: EntryOut | None


class RollbackIn(BaseModel):
    """Which alias to move back."""

    model_config = ConfigDict(extra="forbid")

    alias: str = Field(pattern=_NAME)
    to: int | None = Field(default=None, ge=1, le=10**9, description="By default the one before.")
    expected: int | None = Field(
        default=None, ge=1, le=10**9, description="Where the alias was seen; 409 if it moved."
    )
    why: Annotated[str, Field(min_length=1, max_length=2000)]


class DecisionIn(BaseModel):
    """Why a version is approved or rejected."""

    model_config = ConfigDict(extra="forbid")

    why: Annotated[str, Field(min_length=1, max_length=2000)]


@router.get("/models")
def models(request: Request) -> ModelsOut:
    """List the models with their aliases."""
    store = store_of(request)
    names, foreign = view.models(store)
    return ModelsOut(models=[_model(view.summary(store, name)) for name in names], foreign=foreign)


@router.get("/models/{model}")
def one_model(request: Request, model: Model, limit: Most = 50, skip: Skip = 0) -> VersionsOut:
    """Return a model with its newest versions."""
    store = store_of(request)
    _known(store, model)
    summary = view.summary(store, model)
    wanted = view.numbers(store, model)[::-1]
    rows = view.rows(store, model, wanted[skip : skip + limit], summary.past)
    return VersionsOut(
        model=_model(summary), versions=[_row(model, row) for row in rows], total=len(wanted)
    )


@router.get("/models/{model}/versions/{number}")
def one_version(request: Request, model: Model, number: Number) -> VersionOut:
    """Return a version with evidence, lineage, files and the state of its signature."""
    store = store_of(request)
    _known(store, model)
    [row] = view.rows(store, model, [number], view.past(store, model))
    if row.version is None:
        if number not in view.numbers(store, model):
            raise HTTPException(404, row.problem)
        raise HTTPException(409, row.problem)
    version, signatures = row.version, marks(store, model, [row.version])
    try:
        files, problem = view.files(store, version.artifact.sha256)[0], ""
    except (NotFound, Damaged) as error:
        files, problem = [], str(error)
    try:
        exports, doubt = certificates(store, model, number), ""
    except ValueError as error:
        exports, doubt = {}, str(error)
    return VersionOut(
        row=_row(model, row),
        metrics=dict(version.metrics),
        results=results_of(version),
        baseline=baseline_of(version),
        gates=_verdicts(version.evidence),
        evidence=dict(version.evidence),
        lineage=dict(version.lineage),
        exports=exports,
        exports_problem=doubt,
        **_signature(signatures, number),
        files=[FileOut(**vars(one)) for one in files],
        files_problem=problem,
    )


@router.get("/models/{model}/history")
def history(request: Request, model: Model, limit: Most = 50, skip: Skip = 0) -> HistoryOut:
    """Return who decided what, when and why."""
    store = store_of(request)
    _known(store, model)
    past = view.past(store, model)
    shown = past.entries[::-1][skip : skip + limit]
    signatures = marks(store, model, shown)
    return HistoryOut(
        entries=[_entry(one, signatures) for one in shown],
        total=len(past.entries),
        problem=past.broken,
    )


@router.post("/promote")
def promotion(request: Request, asked: PromoteIn) -> PromoteOut:
    """Ask the gates, and move the alias if they pass and `dry_run` is not set."""
    store, viewer = store_of(request), viewer_of(request)
    if not asked.dry_run:
        needs(Role.admin if asked.force else Role.promoter)(request)
        action = "force" if asked.force else "promote"
        note(request, action, f"{asked.what} to {asked.to}", why=asked.why)
    if asked.gates and asked.gates not in gate_names():
        raise HTTPException(422, f"gates {asked.gates}: known are {', '.join(gate_names())}.")
    if asked.force and not asked.why.strip():
        raise HTTPException(422, "force needs a reason: why")
    desk = judging_of(request.app, store)
    question = Question(
        asked.what.strip(), asked.to, asked.model or "", asked.gates or "", viewer.name
    )
    try:
        judged = desk.ask(question).wait(JUDGE_SECONDS)
        if judged is not None:
            view.believable(store, judged.model, judged.version)
    except UserError as error:
        raise HTTPException(404, str(error)) from None
    except Damaged as error:
        raise HTTPException(409, str(error)) from None
    if judged is None:
        raise HTTPException(503, "the gates are still being asked; send the same again")
    if asked.dry_run:
        return _promotion(judged, dry_run=True)
    if not judged.passed and not asked.force:
        failed = "; ".join(one.text for one in judged.verdicts if not one.passed)
        raise HTTPException(409, f"{judged.what} is not promoted, gates failed: {failed}"[:2000])
    try:
        entry = promote(store, judged, why=asked.why.strip(), who=viewer.name, force=asked.force)
    except (Conflict, Damaged, UserError) as error:
        raise HTTPException(409, str(error)) from None
    finally:
        desk.drop(judged)
    told = _entry(entry, marks(store, judged.model, [entry]))
    return _promotion(judged, dry_run=False, entry=told)


@router.post("/models/{model}/rollback")
def rollback(request: Request, model: Model, viewer: Promoter, asked: RollbackIn) -> EntryOut:
    """Move an alias back to the version before, or to `to`."""
    store = store_of(request)
    note(request, "roll back", f"{model}@{asked.alias}", why=asked.why)
    _known(store, model)
    try:
        view.believable(store, model, asked.to)
        entry = deciding.rollback(
            store,
            model,
            asked.alias,
            why=asked.why,
            who=viewer.name,
            to=asked.to,
            expected=asked.expected,
        )
    except (Conflict, Damaged, UserError) as error:
        raise HTTPException(409, str(error)) from None
    return _entry(entry, marks(store, model, [entry]))


@router.post("/models/{model}/versions/{number}/approve")
def approve(
    request: Request, model: Model, number: Number, viewer: Promoter, asked: DecisionIn
) -> EntryOut:
    """Approve a version."""
    return _decide(request, "approve", model, number, viewer, asked)


@router.post("/models/{model}/versions/{number}/reject")
def reject(
    request: Request, model: Model, number: Number, viewer: Promoter, asked: DecisionIn
) -> EntryOut:
    """Reject a version: it is not promoted until somebody approves it."""
    return _decide(request, "reject", model, number, viewer, asked)


def _decide(
    request: Request, kind: str, model: str, number: int, viewer: Viewer, asked: DecisionIn
) -> EntryOut:
    store, name = store_of(request), f"{model}@{number}"
    note(request, kind, name, why=asked.why)
    _known(store, model)
    if number not in view.numbers(store, model):
        raise HTTPException(404, f"{name}: there is no such version.")
    decide = deciding.approve if kind == "approve" else deciding.reject
    try:
        view.believable(store, model)
        entry = decide(store, name, why=asked.why, who=viewer.name)
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    except Damaged as error:
        raise HTTPException(409, str(error)) from None
    return _entry(entry, marks(store, model, [entry]))


def _known(store: Store, model: str) -> None:
    try:
        view.known_model(store, model)
    except NotFound as error:
        raise HTTPException(404, str(error)) from None


def _model(summary: view.Summary) -> ModelOut:
    return ModelOut(
        name=summary.name,
        versions=summary.count,
        newest=summary.newest,
        aliases=[
            AliasOut(
                alias=one.alias,
                version=one.version,
                since=one.entry.when,
                who=one.entry.who,
                why=one.entry.why,
                gates_passed=one.passed,
                forced=one.forced,
                entry=one.entry.seq,
            )
            for one in summary.past.standing
        ],
        problem=summary.problem or summary.past.broken,
    )


def _row(model: str, row: view.Row) -> VersionRow:
    version = row.version
    return VersionRow(
        model=model,
        version=row.number,
        aliases=list(row.aliases),
        gates_passed=row.passed,
        decision=row.decision,
        forced=row.forced,
        run_id=version.run_id if version else "",
        created_at=version.created_at if version else "",
        created_by=version.created_by if version else "",
        artifact=version.artifact.sha256 if version else "",
        signed=bool(version and version.signature),
        problem=row.problem,
    )


def _signature(signatures: Marks, number: int) -> dict[str, str]:
    """Return what EntryOut and VersionOut tell of a signature."""
    signed = signatures.found.get(number) or Signed("unknown", text=signatures.problem)
    return {"signature": signed.state, "signature_text": signed.text}


def _entry(one: HistoryEntry, signatures: Marks) -> EntryOut:
    return EntryOut(
        seq=one.seq,
        kind=one.kind,
        version=one.version,
        alias=one.alias,
        before=one.before,
        who=one.who,
        when=one.when,
        why=one.why,
        forced=one.forced,
        gates_passed=view.passed(one.evidence),
        digest=one.digest(),
        previous=one.previous,
        **_signature(signatures, one.seq),
        evidence=dict(one.evidence),
    )


def _verdicts(evidence: Any) -> list[VerdictOut]:
    return [
        VerdictOut(
            passed=one.passed,
            kind=one.kind,
            text=one.text,
            gate=one.gate,
            asked=one.asked,
            fix=one.fix,
        )
        for one in view.verdicts(evidence)
    ]


def _promotion(judged: Judgement, *, dry_run: bool, entry: EntryOut | None = None) -> PromoteOut:
    return PromoteOut(
        dry_run=dry_run,
        passed=judged.passed,
        model=judged.model,
        alias=judged.alias,
        before=judged.before,
        version=entry.version if entry else judged.version,
        gates_name=judged.gates_name,
        gates=_verdicts(judged.evidence),
        evidence=dict(judged.evidence),
        entry=entry,
    )
