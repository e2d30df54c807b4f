"""Does a run's index show what lies in it, with gates, figures and links that lead somewhere?"""

from pathlib import Path

import pytest
from comparison import Page
from small_stage import BAD, make, prepare, published

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.pages import index
from pipeline.settings.config import Config


def seen(run: Run) -> Page:
    page = Page(index.write(run).read_text("utf-8"))
    assert "script" not in page.tags
    links = [value for name, value in page.attributes if name == "href"]
    assert links == [one for one in links if one and (run.root / run.name / one).is_file()]  # none leads nowhere
    return page


def test_stages_gates_figures_and_pages(run: Run) -> None:
    made = prepare(run)
    (made / "samples.md").write_text("samples")
    published(run, made, metrics={"rankings_train": 1234.0, "lr": 0.5})
    make(run, "sft", gate=BAD, metrics={"eos_rate": 0.5, "loss_after": 2.5})
    page = seen(run)
    said = " ".join(page.text.split())
    assert "rankings to learn from 1,234" in said and "lr" not in said.split()
    assert "sft gate failed" in said and "loss 2.5 (below 2)" in said and "answers that end by themselves 50.0%" in said
    assert ("href", "data/samples.md") in page.attributes and ("href", "sft/manifest.json") in page.attributes
    assert (
        "make reward RECIPE=recipes/film_reviews.yaml RUN=demo" in said
        and "Nothing is compared yet" in said
        and "dpo" not in said
    )


def test_the_answer_further_seeds_and_inspections(run: Run) -> None:
    for stage in ("data", "sft", "reward", "ppo"):
        make(run, stage)
    make(Run("demo", beside={"ppo": "ppo_seed_1"}), "ppo", Config(seed=1))
    made = prepare(run, "compare")
    (made / "report.html").write_text("page")
    published(run, made, "compare", notes={"answer": "Yes. <b>Preferred</b>", "verdict": "long"})
    (run.root / "demo" / "inspect").mkdir()
    (run.root / "demo" / "inspect" / "a-1.html").write_text("page")
    page = seen(run)
    assert "Yes. <b>Preferred</b>" in page.text and "long" not in page.text
    assert "ppo_seed_1" in page.text and ("href", "inspect/a-1.html") in page.attributes
    assert page.text.index("ppo_seed_1") > page.text.index("reward")


def test_commands_are_of_the_recipe_that_the_run_was_made_with(run: Run) -> None:
    make(Run("demo", call=Call("mine.yaml", "demo", ("seed=1",))))
    said = seen(run).text
    assert "make sft RECIPE=mine.yaml RUN=demo SET=seed=1" in said and "make inspect RECIPE=mine.yaml" in said


def test_what_cannot_be_read_is_as_if_it_were_not_there(run: Run) -> None:
    make(run)
    (run.folder("data") / "manifest.json").write_text("{")
    assert "make data RECIPE=recipes/film_reviews.yaml RUN=demo" in seen(run).text


def test_a_stage_that_is_made_writes_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import running
    from pipeline.stages import data

    def made(config: Config, run: Run) -> Manifest:
        return make(run, "data")

    monkeypatch.setattr(data, "run", made)
    monkeypatch.setattr(data, "summary", lambda manifest, run: "made")
    running._make("data", Config(), run)
    assert Path("runs/demo/index.html").is_file()
