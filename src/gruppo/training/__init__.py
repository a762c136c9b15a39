"""Training: the policy and its update, the loops of SFT and GRPO, checkpoints, controls."""

import logging

# Where bitsandbytes is installed, peft imports it, and on import it warns of an inference kernel that isn't used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
