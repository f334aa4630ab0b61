"""What no recipe changes: the mask value of no class, and how the network's input is normalised."""

IGNORE_INDEX = 255
"""Mask value of what is not known or not counted: borders, crowds, uncertain patches."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""ImageNet's channel statistics of RGB in [0, 1]. The released run feeds them to a backbone that
was pretrained with 0.5 and 0.5; we keep what it does."""
