"""Gates that look for proofs and permissions: each returns one verdict."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from components.registry import Registry, Version
from components.registry.certificates import certificates, certifies
from components.registry.contamination import corpora_of
from components.registry.gates.approvals import approvers
from components.registry.gates.candidate import Candidate
from components.registry.gates.conditions import (
    Approvals,
    Export,
    Gate,
    Licences,
    Resume,
    Signature,
)
from components.registry.gates.verdict import Verdict
from components.registry.keys import own_key
from components.registry.signatures import Signatures
from components.registry.signing import VALID, Trust, examine, of_version, trust_of_user
from components.runtime.record import Attempt
from vila_core.errors import Damaged, NotFound, StoreError, UserError
from vila_core.layouts import LAYOUTS

TRAININGS = ("align", "pretrain", "sft")


def policy_verdict(gate: Gate, candidate: Candidate) -> Verdict:
    """Return the verdict of a gate on anything but scores."""
    if gate.resume is not None:
        return resume_verdict(gate.resume, candidate)
    if gate.export is not None:
        return export_verdict(gate.export, candidate)
    if gate.licences is not None:
        return licence_verdict(gate.licences, candidate)
    if gate.approvals is not None:
        return approvals_verdict(gate.approvals, candidate)
    if gate.signature is not None:
        return signature_verdict(gate.signature, candidate)
    raise ValueError("the gate asks nothing that is known here")


def resume_verdict(asked: Resume, candidate: Candidate) -> Verdict:
    """Look for a certificate of resumption of each training behind the model."""
    trained = {one.task: one for one in candidate.made_by if one.started["stage"] in TRAININGS}
    names = sorted(trained) if asked.tasks == "all" else list(asked.tasks)
    found: dict[str, Any] = {}
    problems: list[str] = []
    fixes: list[str] = []
    for name in names:
        if name not in trained:
            problems.append(f"{name} is no training behind this model")
            continue
        found[name], problem = _resumed(candidate, trained[name])
        if not problem:
            continue
        problems.append(f"{name}: {problem}")
        fix = f"vila verify resume {candidate.run_id} --task {name}"
        if found[name] is not None:
            fix = f"what differs is in {found[name]['place']}: mend it, then train {name} again"
        fixes.append(fix)
    if not names:
        problems.append("the run has no record of a training of this model")
    return _verdict(
        "resume",
        "resumption proven",
        not problems,
        "; ".join(problems) or f"{len(names)} trainings are equal to the bit",
        f"a certificate of {'each training' if asked.tasks == 'all' else ', '.join(names)}",
        {"certificates": found},
        "; ".join(fixes),
    )


def _resumed(candidate: Candidate, attempt: Attempt) -> tuple[dict[str, Any] | None, str]:
    """Return a training's certificate and what is wrong with it ("": nothing).

    A task that came from the cache is looked for in the run that trained it, too. Another proof
    may take a certificate's place, so the evidence has its digest.
    """
    source = (attempt.finished or {}).get("cached_from") or {}
    for run in filter(None, (candidate.run_id, source.get("run_id"))):
        place = f"runs/{run}/certificates/resume-{attempt.task}.json"
        try:
            data = candidate.store.read(place)
            value = json.loads(data)
            kept = {name: value[name] for name in ("run_id", "task", "equal", "made_at")}
            kept |= {name: value.get(name) for name in ("resumed_from", "compared_at", "against")}
        except NotFound:
            continue
        except (ValueError, KeyError, TypeError):
            return None, f"{place} is no certificate"
        kept |= {"place": place, "sha256": hashlib.sha256(data).hexdigest()}
        return kept, "" if kept["equal"] is True else "it did NOT resume to the same bits"
    return None, "no certificate"


def export_verdict(asked: Export, candidate: Candidate) -> Verdict:
    """Look for a certificate that an export gives the version's logits."""
    wanted = "each of " + ", ".join(asked.layouts) if asked.layouts else "any layout"
    version = candidate.version
    found: dict[str, Any] = {}
    problem = "it is no version yet, and versions are what is exported"
    fix = "register it first: its run's own task does, or --force"
    if version is not None:
        try:
            kept = certificates(candidate.store, version.model, version.number)
            found = {name: _certified(value, version) for name, value in kept.items()}
            problem, fix = _lacking(asked, found, version)
        except (StoreError, ValueError, KeyError, TypeError) as error:
            problem, fix = f"the certificates can't be read: {error}", _remove(version)
    return _verdict(
        "export",
        "export equivalent",
        not problem,
        problem or f"equivalent as {', '.join(sorted(found))}",
        f"a certificate of {wanted}",
        {"certificates": found},
        fix,
    )


def _certified(value: Any, version: Version) -> dict[str, Any]:
    proof = value["certificate"]
    return {
        "passed": certifies(value, version),
        "artifact": value.get("artifact"),
        "max_abs_difference": proof.get("max_abs_difference"),
        "tolerance": proof.get("tolerance"),
        "compared_with": proof.get("compared_with"),
        "made_at": value.get("made_at"),
        "made_by": value.get("made_by"),
    }


def _lacking(asked: Export, found: dict[str, Any], version: Version) -> tuple[str, str]:
    """Return what is wrong with the certificates and what to do about it; "" for nothing."""
    good = [name for name in LAYOUTS if found.get(name, {}).get("passed")]
    bad = sorted(name for name in found if name not in good)
    if bad:
        problem = f"the certificate of {', '.join(bad)} does not hold for this version"
        return problem, _remove(version)
    lacking = [name for name in asked.layouts if name not in good]
    fixes = [
        f"vila registry export {version.name} --layout {name} --to FOLDER"
        for name in lacking or ["transformers"]
    ]
    if lacking or not good:
        return f"no certificate of {', '.join(lacking) or 'any layout'}", "; ".join(fixes)
    return "", ""


def _remove(version: Version) -> str:
    """No export writes such a certificate, and none replaces it: the first one stays."""
    folder = f"registry/{version.model}/certificates/{version.number}"
    return f"find out who wrote it, remove it from {folder} of the store, and export again"


def licence_verdict(asked: Licences, candidate: Candidate) -> Verdict:
    """Hold the licences of the corpora in the model's lineage against the lists."""
    gate, wanted = "licences of the corpora", _wanted(asked)
    try:
        found = _licences(candidate)
        problem = "" if found else "the run has no record of a training of this model"
    except (UserError, NotFound, Damaged, ValueError, KeyError, OSError) as error:
        found, problem = {}, f"can't be told: {error}"
    bad = {name: licence for name, licence in found.items() if not _allowed(asked, licence)}
    told = ", ".join(f"{name}: {licence or 'unknown'}" for name, licence in (bad or found).items())
    return _verdict(
        "licence",
        gate,
        not problem and not bad,
        problem or told,
        wanted,
        {"corpora": found, "refused": bad},
        "train without these corpora, or say the licence of one as `licence` in prepare.corpora"
        if bad
        else "",
    )


def _licences(candidate: Candidate) -> dict[str, str | None]:
    """Return the licence of each corpus of the mixtures, None where its manifest names none."""
    found = {}
    for corpus in corpora_of(candidate):
        try:
            manifest = json.loads(corpus.read("manifest.json"))
        except (NotFound, FileNotFoundError):
            raise NotFound(f"{corpus.uri}: there is no corpus any more") from None
        licence, name = manifest.get("licence"), str(manifest["name"])
        place = name if name not in found else f"{name} of {corpus.uri}"
        found[place] = str(licence) if licence else None
    return found


def _allowed(asked: Licences, licence: str | None) -> bool:
    if licence is None:
        return asked.unknown == "pass"
    if _matches(licence, asked.deny):
        return False
    return asked.allow is None or _matches(licence, asked.allow)


def _matches(licence: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(licence.lower(), pattern.lower()) for pattern in patterns)


def _wanted(asked: Licences) -> str:
    parts = [f"one of {', '.join(asked.allow)}"] if asked.allow is not None else []
    parts += [f"not {', '.join(asked.deny)}"] if asked.deny else []
    return ", ".join(parts) + ("" if asked.unknown == "fail" else ", or unknown")


def approvals_verdict(asked: Approvals, candidate: Candidate) -> Verdict:
    """Count who approves the version."""
    version = candidate.version
    who: list[str] = []
    if version is not None:
        history = Registry(candidate.store).history(version.model)
        who = approvers(history, version.number)
    counted = [name for name in who if not (asked.not_promoter and name == candidate.who)]
    besides = f" (not {candidate.who}, who promotes)" if len(counted) < len(who) else ""
    found = f"{len(counted)}: {', '.join(counted)}{besides}" if who else "nobody"
    name = version.name if version else f"{candidate.model}@NUMBER"
    others = ", besides who promotes" if asked.not_promoter else ""
    return _verdict(
        "approvals",
        "approvals",
        len(counted) >= asked.count,
        found if version else "nobody: it is no version yet",
        f"{asked.count} or more people{others}",
        {"approvers": counted, "count": asked.count, "promoter": candidate.who},
        f"vila registry approve {name} --why TEXT, by {asked.count - len(counted)} more",
        value=float(len(counted)),
    )


def signature_verdict(asked: Signature, candidate: Candidate) -> Verdict:
    """Look whether the version is signed by somebody who is trusted here.

    A model that is no version yet is signed when it becomes one, by this user's key.
    """
    wanted = "a signature by "
    wanted += f"one of {', '.join(asked.keys)}" if asked.keys else "anybody who is trusted here"
    version, own = candidate.version, own_key()
    if version is not None:
        trust = trust_of_user()
        if asked.keys:
            keys = {name: key for name, key in trust.keys.items() if _begins(name, asked.keys)}
            identities = tuple(one for one in trust.identities if one[0] in asked.keys)
            trust = Trust(keys, identities)
        bundles = Signatures(candidate.store, version.model).of(version)
        signed = examine(bundles, of_version(version), trust)
        passed, found = signed.state == VALID, f"{version.name} {signed.text}"
        details = {"state": signed.state, "by": signed.by}
        fix = f"vila registry sign {version.name}, by a key that is trusted here"
    else:
        by = own.key_id if own else ""
        passed = bool(by) and (not asked.keys or _begins(by, asked.keys))
        found = f"will be signed by key {by[:16]}" if by else "unsigned: there is no key to sign it"
        details, fix = (
            {"state": "to be signed" if by else "unsigned", "by": by},
            ("vila registry key create" if not by else "promote by one of these keys"),
        )
    return _verdict("signature", "signature", passed, found, wanted, details, fix)


def _begins(key_id: str, keys: Sequence[str]) -> bool:
    return any(key_id.startswith(key) for key in keys)


def _verdict(
    kind: str,
    gate: str,
    passed: bool,
    found: str,
    asked: str,
    details: dict[str, Any],
    fix: str,
    value: float | None = None,
) -> Verdict:
    details = {"gate": gate, "found": found, "asked": asked, **details}
    if not passed and fix:
        details["fix"] = fix
    return Verdict(passed, f"{gate}: {found}; {asked} is asked", value, kind, details)
