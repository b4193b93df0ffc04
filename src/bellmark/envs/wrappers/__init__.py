"""Wrappers of compiled environments.  (For Gymnasium's environments there are Gymnasium's own wrappers.)"""

from bellmark.envs.wrappers.time_limit import TimeLimit as TimeLimit
