"""Are settings that do not go together told before anything is loaded, and does make hand on the names of the models?"""

import subprocess
from pathlib import Path

import pytest
from small_walk import settings

from pipeline.settings.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_settings_that_do_not_go_together_are_told_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"dpo\.beta: ppo\.kl_coef is 0"):
        settings("ppo.kl_coef=0").check_stage("dpo", 1)
    settings("ppo.kl_coef=0", "dpo.beta=0.1").check_stage("dpo", 1)
    assert (settings().beta("dpo"), settings("dpo.beta=0.3").beta("dpo")) == (0.05, 0.3)
    with pytest.raises(ConfigError, match=r"rloo\.batch_size: ppo\.total_episodes 48 is no multiple of 20"):
        settings("rloo.batch_size=20").check_stage("rloo", 1)
    with pytest.raises(ConfigError, match="no multiple of num_generations 4"):
        settings("rloo.batch_size=6")
    with pytest.raises(ConfigError, match=r"rft\.batch_size: 8 rows cannot be shared by 3 process"):
        settings().check_stage("rft", 3)
    assert settings().rft_prompts() == 12 and settings("rft.prompts=5").rft_prompts() == 5


def test_make_names_the_models(tmp_path: Path) -> None:
    call = ["make", "-n", "-C", str(ROOT), "compare", "RUN=r", "MODELS=base  best_of_16 org/name"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert " 'compare.models=[base,best_of_16,org/name]'" in done.stdout
    done = subprocess.run([*call[:-1], "MODELS="], capture_output=True, text=True, check=True)
    assert "compare.models" not in done.stdout
