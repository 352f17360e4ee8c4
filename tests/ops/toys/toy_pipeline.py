"""source -> grow, grow-twin (independent of each other) -> judge."""

from components.toy_grow import toy_grow
from components.toy_judge import toy_judge
from components.toy_source import toy_source
from kfp import dsl


@dsl.pipeline(name="toy")
def toy(context: str, source: str, grow: str, grow_twin: str, judge: str):
    def task(component, name, config, **inputs):
        made = component(context=context, task=name, config=config, **inputs)
        made.set_display_name(name)
        return made

    data = task(toy_source, "source", source).outputs["data"]
    model = task(toy_grow, "grow", grow, data=data).outputs["model"]
    task(toy_grow, "grow-twin", grow_twin, data=data)
    task(toy_judge, "judge", judge, model=model)
