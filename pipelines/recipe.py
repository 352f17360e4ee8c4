"""VILA's whole recipe as one graph: base models, align, pretrain, sft, evaluate, register."""

from kfp import dsl

from components.align import align as align_op
from components.evaluate import evaluate as evaluate_op
from components.language_model import language_model as language_model_op
from components.prepare import prepare as prepare_op
from components.pretrain import pretrain as pretrain_op
from components.register import register as register_op
from components.sft import sft as sft_op
from components.vision_tower import vision_tower as vision_tower_op


@dsl.pipeline(name="vila-recipe")
def recipe(
    context: str,
    prepare: str,
    vision_tower: str,
    language_model: str,
    align: str,
    pretrain: str,
    sft: str,
    evaluate_base: str,
    evaluate_pretrain: str,
    evaluate: str,
    register: str,
):
    """Pre-train a visual language model, from corpora and base models to a registered version.

    Args:
        context: JSON with the store, run id, recipe name and tracking mode.
        prepare: Config of the task of that name, as JSON; so for the others.
        vision_tower: Config as JSON.
        language_model: Config as JSON.
        align: Config as JSON.
        pretrain: Config as JSON.
        sft: Config as JSON.
        evaluate_base: Config as JSON.
        evaluate_pretrain: Config as JSON.
        evaluate: Config as JSON.
        register: Config as JSON.
    """

    def task(component, name: str, config, **inputs) -> dsl.PipelineTask:
        made = component(context=context, task=name, config=config, **inputs)
        made.set_display_name(name)  # KFP's own key of a second `evaluate` would be `evaluate-2`
        # KFP's cache does not see library code; the step looks into our own, which does.
        made.set_caching_options(False)
        return made

    data = task(prepare_op, "prepare", prepare).outputs["data"]
    tower = task(vision_tower_op, "vision-tower", vision_tower).outputs["model"]
    language = task(language_model_op, "language-model", language_model).outputs["model"]
    aligned = task(
        align_op, "align", align, data=data, vision_tower=tower, language_model=language
    ).outputs["model"]
    pretrained = task(pretrain_op, "pretrain", pretrain, data=data, base=aligned).outputs["model"]
    tuned = task(sft_op, "sft", sft, data=data, base=pretrained).outputs["model"]
    before = task(evaluate_op, "evaluate-base", evaluate_base, data=data, model=language)
    task(evaluate_op, "evaluate-pretrain", evaluate_pretrain, data=data, model=pretrained)
    after = task(evaluate_op, "evaluate", evaluate, data=data, model=tuned)
    task(
        register_op,
        "register",
        register,
        model=tuned,
        results=after.outputs["results"],
        baseline=before.outputs["results"],
    )
