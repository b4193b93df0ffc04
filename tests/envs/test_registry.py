"""From names and objects to environments, and one helpful line for everything that is not one."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import misbehaving
import numpy as np
import pytest

from bellmark.cli.main import run
from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.registry import OWN, TWINS, list_environments, resolve
from bellmark.envs.wrappers import TimeLimit
from bellmark.errors import BadInput
from bellmark.mdp.examples import EXAMPLES

WORLDS = str(Path(misbehaving.__file__))


@pytest.mark.parametrize("name", TWINS)
def test_an_id_with_a_twin_is_compiled_and_says_so(name):
    resolved = resolve(name)
    spec = gymnasium.spec(name)
    assert resolved.kind == "compiled"
    assert isinstance(resolved.compiled, TimeLimit)
    assert resolved.make is None
    assert resolved.time_limit == spec.max_episode_steps
    assert resolved.threshold == spec.reward_threshold
    assert resolved.note == f"compiled twin of Gymnasium's {name}"
    assert resolved.id == name


def test_gymnasium_can_be_forced():
    resolved = resolve("gymnasium:CartPole-v1")
    assert resolved.kind == "gymnasium"
    assert resolved.compiled is None
    assert resolved.make().spec.id == "CartPole-v1"
    assert resolved.id == "gymnasium:CartPole-v1"
    assert resolve(resolved.id).kind == "gymnasium"


def test_options():
    assert resolve("CartPole-v1", max_episode_steps=7).compiled.limit == 7
    assert resolve("CartPole-v1", max_episode_steps=7).threshold is None
    other = resolve("Pendulum-v1", g=5.0)
    assert other.kind == "gymnasium"
    assert "its compiled twin does not know g" in other.note
    assert other.make().unwrapped.g == 5.0
    assert resolve("grid_world", noise=0.3).mdp.num_states == resolve("grid-world").mdp.num_states


def test_ids_without_a_twin_run_through_gymnasium():
    resolved = resolve("FrozenLake-v1", is_slippery=False)
    assert resolved.kind == "gymnasium"
    assert resolved.make().reset(seed=0)[0] == 0
    assert (resolved.time_limit, resolved.threshold) == (100, None)


def test_finite_examples_and_models():
    by_name = resolve("two-states")
    assert by_name.kind == "finite"
    assert by_name.mdp.num_states == 2
    by_model = resolve(EXAMPLES["two-states"]())
    assert by_model.mdp.num_states == 2
    assert by_name.reproducible
    assert not by_model.reproducible


@pytest.mark.parametrize("reference", ["misbehaving:Honest", f"{WORLDS}:Honest"])
def test_a_users_own_class_by_name(reference):
    resolved = resolve(reference, length=3)
    assert resolved.kind == "user"
    assert resolved.make().length == 3
    assert resolved.id == reference
    assert type(resolve(resolved.id).make()) is type(resolved.make())


def test_a_module_may_be_found_where_the_command_is_run(tmp_path):
    (tmp_path / "my_world.py").write_text(
        "import jax.numpy as jnp\n"
        "from bellmark.envs.classic_control.cart_pole import CartPole\n"
        "from bellmark.envs.wrappers import TimeLimit\n"
        "def short(limit=9):\n    return TimeLimit(CartPole(), limit)\n"
    )
    code = (
        "from bellmark.envs.registry import resolve; r = resolve('my_world:short', limit=4);"
        "assert r.kind == 'user' and r.compiled.limit == 4 and r.time_limit == 4"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
    code = "from bellmark.envs.registry import resolve; print(resolve('my_world.py:short').id)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == f"{tmp_path}/my_world.py:short"


def test_objects():
    instance = resolve(CartPole())
    assert isinstance(instance.compiled, CartPole)
    assert not instance.reproducible
    assert isinstance(resolve(CartPole).compiled, CartPole)
    assert resolve(CartPole).id == "bellmark.envs.classic_control.cart_pole:CartPole"
    assert resolve(misbehaving.Honest).id == "misbehaving:Honest"
    factory = resolve(lambda: gymnasium.make("Acrobot-v1"))
    assert factory.time_limit == 500
    assert not factory.reproducible
    assert factory.make() is not factory.make()
    assert resolve(instance) is instance


def test_a_gymnasium_instance_becomes_many():
    from_spec = resolve(gymnasium.make("Acrobot-v1"))
    assert from_spec.make() is not from_spec.make()
    assert from_spec.id == "gymnasium:Acrobot-v1"
    own = misbehaving.Honest(4)
    copied = resolve(own)
    assert copied.make() is not own
    assert copied.make().length == 4
    own.lock = (number for number in [])
    with pytest.raises(BadInput, match="cannot be copied"):
        resolve(own).make()


@pytest.mark.parametrize(
    "given, said",
    [
        ("CartPol-v1", "unknown environment 'CartPol-v1' (did you mean 'CartPole-v1'?)"),
        ("cartpole", "(did you mean 'CartPole-v1'?)"),
        ("gridworld", "(did you mean 'grid-world'?)"),
        ("gymnasium:CartPol-v1", "(did you mean 'CartPole-v1'?)"),
        ("no_such_module:World", "there is no module 'no_such_module'"),
        ("misbehaving:Honset", "misbehaving has no 'Honset' (did you mean 'Honest'?)"),
        ("nowhere/world.py:World", "there is no file nowhere/world.py"),
        ("misbehaving:np", "module is not an environment; allowed: an id"),
        (3, "int is not an environment; allowed: an id"),
        (dict, "dict gave a dict; needed is a gymnasium.Env"),
    ],
)
def test_what_is_not_an_environment_gets_one_line(given, said):
    with pytest.raises(BadInput) as caught:
        resolve(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_options_are_named():
    with pytest.raises(BadInput, match="its options are: length"):
        resolve("misbehaving:Honest", size=3)


@pytest.mark.parametrize(
    "name, module, remedy",
    [
        ("HalfCheetah-v5", "mujoco", 'pip install "gymnasium[mujoco]"'),
        ("LunarLander-v3", "Box2D", 'pip install "gymnasium[box2d]"'),
        ("ALE/Pong-v5", "ale_py", "pip install 'bellmark[atari]'"),
    ],
)
def test_a_missing_package_says_what_installs_it(monkeypatch, name, module, remedy):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *rest: None if n == module else find(n, *rest))
    with pytest.raises(BadInput) as caught:
        resolve(name)
    assert remedy in str(caught.value)


def test_a_file_that_cannot_be_imported(tmp_path):
    world = tmp_path / "world.py"
    world.write_text("raise OSError('no disk')")
    with pytest.raises(BadInput, match="cannot be imported: OSError: no disk"):
        resolve(f"{world}:World")


def test_the_list():
    rows = {row.id: row for row in list_environments()}
    assert {row.id for row in rows.values() if row.kind == "compiled"} == {*TWINS, *OWN}
    assert rows["grid-world"].kind == "finite"
    assert rows["HalfCheetah-v5"].kind == "gymnasium"
    assert "HalfCheetah-v4" not in rows
    assert rows["CartPole-v1"].threshold == 475


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys; from bellmark.envs.registry import list_environments, resolve; list_environments();"
        "resolve('gymnasium:CartPole-v1'); assert 'jax' not in sys.modules, 'jax'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_environment_on_the_command_line():
    with pytest.raises(BadInput, match="did you mean 'CartPole-v1'"):
        run(["check", "CartPol-v1"])


def test_resolved_twins_can_be_run():
    environment = resolve("CartPole-v1").compiled
    state = environment.reset(jax.random.key(0))
    assert np.asarray(environment.observe(state)).shape == (4,)
