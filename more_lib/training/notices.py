"""What a recipe's numbers lead to that nobody who only changed one of them may expect."""

from more_lib.method.objective import MINED
from more_lib.recipes.profiles import PROFILES
from more_lib.recipes.schema import Recipe


def notices(recipe: Recipe) -> list[str]:
    """Lines about terms that never count, a warm-up that never ends, and another CAM's masks."""
    last, schedule, said = recipe.optimizer.iterations, recipe.schedule, []
    weighted = [name for name in MINED if getattr(recipe.loss, name) > 0]
    if never := [name for name in weighted if getattr(schedule, name) >= last]:
        named = ", ".join(f"{name} from {getattr(schedule, name) + 1}" for name in never)
        untrained = "; the decoder stays random" * ("segmentation" in never)
        said.append(f"of {last} iterations some terms see none (schedule): {named}{untrained}")
    if recipe.optimizer.warmup_iterations >= last:
        said.append(f"the warm-up of {recipe.optimizer.warmup_iterations} iterations never ends")
    usual = PROFILES.get(recipe.profile, recipe)
    if schedule.final_cam < last and usual.schedule.final_cam >= usual.optimizer.iterations:
        begins = f"from iteration {schedule.final_cam + 1} on masks come from the final CAM"
        said.append(f"{begins}, in {recipe.profile} never: schedule.final_cam={last} keeps it so")
    return said
