"""Recipes: everything that decides a result, checked when it is built (notebook 05 §1)."""

from more_lib.recipes.loading import changed as changed
from more_lib.recipes.loading import fingerprint as fingerprint
from more_lib.recipes.loading import from_dict as from_dict
from more_lib.recipes.loading import load_recipe as load_recipe
from more_lib.recipes.loading import saved_recipe as saved_recipe
from more_lib.recipes.loading import to_dict as to_dict
from more_lib.recipes.loading import training_fingerprint as training_fingerprint
from more_lib.recipes.loading import training_values as training_values
from more_lib.recipes.profiles import PROFILES as PROFILES
from more_lib.recipes.schema import Recipe as Recipe
