"""Reward functions, their rubric, and the built-in verifiers."""

from gruppo.rewards.format import format_reward
from gruppo.rewards.loading import load_function
from gruppo.rewards.math import math_reward
from gruppo.rewards.result import RewardResult
from gruppo.rewards.rubric import Reward, Rubric, build_rubric

__all__ = ["Reward", "RewardResult", "Rubric", "build_rubric", "format_reward", "load_function", "math_reward"]
