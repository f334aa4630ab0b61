"""What is said before a training whose numbers do something that one may not expect."""

import pytest

from more_lib.recipes import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.training.notices import notices


@pytest.mark.parametrize("profile", PROFILES)
def test_of_a_profile_as_it_is_nothing_is_said(profile):
    assert notices(PROFILES[profile]) == []


@pytest.mark.parametrize(
    ("profile", "changes", "said"),
    [
        ("mini", "optimizer.iterations=30", "segmentation from 41, dense_energy from 41; the deco"),
        ("mini", "optimizer.iterations=20", "the warm-up of 20 iterations never ends"),
        ("mini", "optimizer.iterations=600", "from iteration 301 on masks come from the final CAM"),
        ("voc", "optimizer.iterations=2000", "of 2000 iterations some terms see none (schedule): "),
    ],
)
def test_what_a_change_does_besides_is_said(profile, changes, said):
    assert any(said in line for line in notices(load_recipe(profile, changes.split())))


def test_a_term_without_weight_and_masks_of_the_final_cam_as_in_the_profile_are_no_surprise():
    longer = ["optimizer.iterations=600", "schedule.final_cam=600"]
    assert notices(load_recipe("mini", longer)) == []
    silent = ["loss.segmentation=0", "loss.dense_energy=0", "optimizer.iterations=30"]
    assert notices(load_recipe("mini", silent)) == []
    assert notices(load_recipe("voc", ["optimizer.iterations=30000"])) == []
