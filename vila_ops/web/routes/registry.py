"""The registry: models, versions, history, and what promoters decide, each with its reason."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from components.registry import HistoryEntry, Registry, Version
from components.registry.gates.approvals import approvers
from components.registry.gates.files import names as gate_names
from components.registry.verify import Finding
from vila_core.errors import Conflict, Damaged, UserError, VilaError
from vila_core.store import Store
from vila_ops.lineage import trace_back
from vila_ops.lineage.drawing import link
from vila_ops.registry import rollback as deciding
from vila_ops.registry.promote import Judgement, promote
from vila_ops.registry.subject import baseline_of, results_of
from vila_ops.web import registry_view as view
from vila_ops.web.audit import note
from vila_ops.web.forms import read_form
from vila_ops.web.judging import Asked, Question, judging_of
from vila_ops.web.lineage_desk import desk_of
from vila_ops.web.loading import store_of
from vila_ops.web.markdown import markdown, split
from vila_ops.web.pages import page
from vila_ops.web.parts import Part, part
from vila_ops.web.roles import Role, Viewer, needs, viewer_of
from vila_ops.web.routes.lineage import shown
from vila_ops.web.signed import marks

WAIT_SECONDS = 3.0
HISTORY_ROWS = 50
MOST_DRAWN = 80
MOST_REASON = 2000
MOST_HEADLINE = 24

router = APIRouter(include_in_schema=False)

Number = Annotated[int, Path(ge=1, le=10**9)]
PageNumber = Annotated[int, Query(ge=1, le=10**6)]
Word = Annotated[str, Query(max_length=200)]
Form = Annotated[dict[str, str], Depends(read_form)]
Promoter = Annotated[Viewer, Depends(needs(Role.promoter))]


@router.get("/registry")
def registry(request: Request) -> Response:
    """Show all models with their aliases."""
    store = store_of(request)
    names, foreign = view.models(store)
    return page(
        request,
        "registry.html",
        models=[view.summary(store, name) for name in names],
        foreign=foreign,
    )


@router.get("/registry/promote")
def judge(
    request: Request, what: Word = "", to: Word = "", model: Word = "", gates: Word = ""
) -> Response:
    """Show what the gates say of a promotion, which changes nothing."""
    viewer = viewer_of(request)
    alias = to.strip() or "candidate"
    question = Question(what.strip(), alias, model.strip(), gates.strip(), viewer.name)
    return _judged(request, question)


@router.post("/registry/promote")
def decide(request: Request, viewer: Promoter, form: Form) -> Response:
    """Move the alias as it was judged on the page that sent the form."""
    store, reason = store_of(request), _reason(form)
    what, to = form.get("what", "")[:200], form.get("to", "")[:200]
    force = form.get("action") == "force"
    note(request, "force" if force else "promote", f"{what} to {to}", why=reason)
    if force and viewer.role < Role.admin:
        raise HTTPException(403, f"to force needs the role admin; {viewer.name} is promoter")
    question = Question(what, to, "", "", viewer.name)
    desk = judging_of(request.app, store)
    judged = desk.kept(form.get("judged", "")[:64], viewer.name)
    if judged is None:
        again = "What you saw is not kept any more; the gates were asked anew. Nothing was changed."
        return _judged(request, question, again=again, code=409)
    try:
        view.believable(store, judged.model, judged.version)
        entry = promote(store, judged, why=reason, who=viewer.name, force=force)
    except Conflict:
        desk.drop(judged)
        return _judged(request, question, again=_moved(store, judged), code=409)
    except (Damaged, UserError) as error:
        desk.drop(judged)
        return _judged(request, question, again=str(error), code=409)
    desk.drop(judged)
    return _to_entry(judged.model, entry)


@router.get("/registry/{model}")
def one_model(
    request: Request,
    model: str,
    number: Annotated[int, Query(alias="page", ge=1, le=10**6)] = 1,
    history: PageNumber = 1,
) -> Response:
    """Show a model: aliases, versions, history."""
    store = store_of(request)
    view.known_model(store, model)
    past = view.past(store, model)
    all_numbers = view.numbers(store, model)[::-1]
    at, pages = _cut(number, len(all_numbers), view.PAGE_ROWS)
    history_at, history_pages = _cut(history, len(past.entries), HISTORY_ROWS)
    newest = list(reversed(past.entries))
    wanted = all_numbers[(at - 1) * view.PAGE_ROWS : at * view.PAGE_ROWS]
    rows = view.rows(store, model, wanted, past)
    return page(
        request,
        "registry_model.html",
        model=model,
        past=past,
        wrong=_wrong(store, model, past),
        marks=marks(store, model, past.entries),
        rows=rows,
        version_marks=marks(store, model, [one.version for one in rows if one.version]),
        total=len(all_numbers),
        at=at,
        pages=pages,
        entries=newest[(history_at - 1) * HISTORY_ROWS : history_at * HISTORY_ROWS],
        history_at=history_at,
        history_pages=history_pages,
        can_go_back={one.alias for one in past.standing if len(all_numbers) > 1},
    )


@router.get("/registry/{model}/rollback")
def rollback_form(
    request: Request, model: str, alias: Word, to: PageNumber | None = None
) -> Response:
    """Show from where to where an alias would go back, and ask for the reason."""
    return _rollback_page(request, model, alias, to)


@router.post("/registry/{model}/rollback")
def roll_back(request: Request, model: str, viewer: Promoter, form: Form) -> Response:
    """Move an alias back."""
    store, reason = store_of(request), _reason(form)
    alias = form.get("alias", "")[:200]
    note(request, "roll back", f"{model}@{alias}", why=reason, to=form.get("to", "")[:20])
    view.known_model(store, model)
    to, before = _number(form.get("to")), _number(form.get("before"))
    if not reason:
        return _rollback_page(request, model, alias, to, again="A reason is needed.", code=422)
    try:
        view.believable(store, model, to)
        entry = deciding.rollback(
            store, model, alias, why=reason, who=viewer.name, to=to, expected=before
        )
    except (Conflict, Damaged, UserError) as error:
        return _rollback_page(request, model, alias, None, again=str(error), code=409)
    return _to_entry(model, entry)


@router.get("/registry/{model}/history/{seq}")
def one_entry(request: Request, model: str, seq: Number) -> Response:
    """Show an entry of the history with its evidence."""
    store = store_of(request)
    view.known_model(store, model)
    past = view.past(store, model)
    found = next((one for one in past.entries if one.seq == seq), None)
    if found is None:
        return _nothing(request, f"{model}: its history has no entry {seq} that can be read.")
    return page(
        request,
        "registry_entry.html",
        model=model,
        past=past,
        wrong=_wrong(store, model, past),
        one=found,
        marks=marks(store, model, [found]),
        found=view.grouped(view.verdicts(found.evidence)),
        evidence=view.told(found.evidence),
    )


@router.post("/registry/{model}/{number}/decide")
def say(request: Request, model: str, number: Number, viewer: Promoter, form: Form) -> Response:
    """Approve or reject a version, or withdraw one's approval."""
    store, reason, kind = store_of(request), _reason(form), form.get("kind", "")
    name = f"{model}@{number}"
    note(request, kind if kind in _DECISIONS else "decide", name, why=reason)
    view.known_model(store, model)
    if kind not in _DECISIONS:
        raise HTTPException(422, f"kind is one of {', '.join(_DECISIONS)}")
    try:
        view.believable(store, model)
        entry = _DECISIONS[kind](store, name, why=reason, who=viewer.name)
    except (Damaged, UserError) as error:
        code = 409 if isinstance(error, Damaged) else 422
        return _message(request, code, "Nothing was changed", str(error))
    return _to_entry(model, entry)


_DECISIONS = {
    "approve": deciding.approve,
    "reject": deciding.reject,
    "withdraw": deciding.withdraw,
}


@router.get("/registry/{model}/{number}")
def one_version(request: Request, model: str, number: Number) -> Response:
    """Show a version with all that is known of it."""
    store = store_of(request)
    view.known_model(store, model)
    past = view.past(store, model)
    try:
        version = Registry(store).version(model, number)
    except UserError as error:
        return _nothing(request, str(error))
    except Damaged as error:
        return _message(request, 409, f"{model}@{number} can't be believed", str(error))
    metrics = sorted(version.metrics.items())
    return page(
        request,
        "registry_version.html",
        model=model,
        version=version,
        past=past,
        wrong=_wrong(store, model, past),
        passed=view.passed(version.evidence),
        forced=past.forced(number),
        results=results_of(version),
        baseline=baseline_of(version),
        known_aliases=[one.alias for one in past.standing],
        approved_by=approvers(past.entries, number),
        found=view.grouped(view.verdicts(version.evidence)),
        metrics=metrics[:500],
        believed=part(lambda: view.believable(store, model, number)),
        headline=[one for one in metrics if _tells(one[0])][:MOST_HEADLINE],
        signed=marks(store, model, [version]).found.get(number),
        marks=marks(store, model, past.entries),
        files=part(lambda: view.files(store, version.artifact.sha256)),
        certificates=part(lambda: view.certificates(store, version)),
        mirrors=part(lambda: view.mirrors(store, model)),
        card=part(lambda: _card(store, version)),
        lineage=part(lambda: _lineage(request, version)),
        entries=[one for one in reversed(past.entries) if number in (one.version, one.before)][:50],
        link=link,
    )


def _judged(request: Request, asked: Question, *, again: str = "", code: int = 200) -> Response:
    """Show what the gates say, or that they are being asked, or why they can't be."""
    trouble, waiting, judged, one = "", 0.0, None, None
    if asked.what and asked.to:
        try:
            one, judged = _ask(request, asked)
            waiting = 0.0 if judged else one.age_s
        except UserError as error:
            trouble, code = str(error), 404 if code == 200 else code
        except (VilaError, OSError) as error:
            worse = 409 if isinstance(error, Damaged) else 503
            trouble, code = str(error), worse if code == 200 else code
    return page(
        request,
        "registry_promote.html",
        code=code,
        asked=asked,
        judged=judged,
        name=one.name if one else "",
        found=view.grouped(view.verdicts(judged.evidence if judged else {})),
        evidence=view.told(judged.evidence) if judged else "",
        waiting=waiting,
        trouble=trouble,
        again=again,
        gate_names=gate_names(),
    )


def _ask(request: Request, asked: Question) -> tuple[Asked, Judgement | None]:
    if asked.gates and asked.gates not in gate_names():  # a file of the server's is no name
        raise UserError(f"gates {asked.gates}: known are {', '.join(gate_names())}.")
    store = store_of(request)
    one = judging_of(request.app, store).ask(asked)
    judged = one.wait(WAIT_SECONDS)
    if judged is not None:
        view.believable(store, judged.model, judged.version)
    return one, judged


def _moved(store: Store, judged: Judgement) -> str:
    """Return who moved an alias while somebody looked at its judgement."""
    past = view.past(store, judged.model)
    now = next((one for one in past.standing if one.alias == judged.alias), None)
    if now is None:
        return "Somebody else changed the alias since you looked. Nothing was changed by you."
    return (
        f"{now.entry.who} moved {judged.model}@{judged.alias} to version {now.version} since you "
        f"looked{f': {now.entry.why}' if now.entry.why else ''}. Nothing was changed by you; the "
        "gates were asked anew, against the new version."
    )


def _rollback_page(
    request: Request, model: str, alias: str, to: int | None, *, again: str = "", code: int = 200
) -> Response:
    store = store_of(request)
    view.known_model(store, model)
    past = view.past(store, model)
    standing = next((one for one in past.standing if one.alias == alias), None)
    if standing is None and not past.broken:
        return _nothing(request, f"{model} has no alias '{alias}'.")
    natural, choices = None, []
    if standing is not None:
        choices = [one for one in view.numbers(store, model)[::-1] if one != standing.version]
        try:
            natural = deciding.target(past.entries, alias, f"{model}@{alias}")
        except UserError:
            natural = None
    return page(
        request,
        "registry_rollback.html",
        code=code,
        model=model,
        alias=alias,
        past=past,
        wrong=_wrong(store, model, past),
        before=standing.version if standing else None,
        choices=choices[:200],
        natural=natural,
        to=to if to in choices else natural or (choices[0] if choices else None),
        again=again,
        marks=marks(store, model, past.entries),
        entries=[one for one in reversed(past.entries) if one.alias == alias][:20],
    )


def _card(store: Store, version: Version) -> tuple[str, Any]:
    from vila_ops.registry.card import card

    text = card(store, version)
    return split(text)[0], markdown(text)


def _lineage(request: Request, version: Version) -> Any:
    with desk_of(request.app, store_of(request)).current() as index:
        return shown(trace_back(index, f"version:{version.name}", MOST_DRAWN))


def _wrong(store: Store, model: str, past: view.Past) -> Part[list[Finding]]:
    """Return all that is wrong with the records, where something is."""
    return part(lambda: view.wrong(store, model)) if past.broken else Part([])


def _tells(metric: str) -> bool:
    """Return whether a metric is one of a whole benchmark, and about the model."""
    task, _, rest = metric.partition("/")
    return "." not in task and not rest.startswith(("blind_", "chance"))


def _cut(asked: int, count: int, rows: int) -> tuple[int, int]:
    pages = max(1, -(-count // rows))
    return min(asked, pages), pages


def _to_entry(model: str, entry: HistoryEntry) -> Response:
    return RedirectResponse(f"/registry/{quote(model, safe='')}#entry-{entry.seq}", 303)


def _nothing(request: Request, text: str) -> Response:
    return _message(request, 404, "There is no such thing in the registry", text)


def _message(request: Request, code: int, title: str, text: str) -> Response:
    return page(request, "message.html", code=code, title=title, text=text)


def _reason(form: dict[str, str]) -> str:
    return form.get("why", "").strip()[:MOST_REASON]


def _number(text: str | None) -> int | None:
    good = text is not None and text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if good and text else None
