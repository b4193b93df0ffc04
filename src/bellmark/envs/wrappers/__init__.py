"""Wrappers of compiled environments.  Gymnasium's own have Gymnasium's, and HostFrameStack."""

from bellmark.envs.wrappers.flatten_observation import FlattenObservation as FlattenObservation
from bellmark.envs.wrappers.frame_stack import FrameStack as FrameStack
from bellmark.envs.wrappers.frame_stack import HostFrameStack as HostFrameStack
from bellmark.envs.wrappers.frame_stack import stacked_frames as stacked_frames
from bellmark.envs.wrappers.mask_observation import MaskObservation as MaskObservation
from bellmark.envs.wrappers.scale_action import ScaleAction as ScaleAction
from bellmark.envs.wrappers.time_limit import TimeLimit as TimeLimit
