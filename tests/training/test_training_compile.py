"""The step compiled for four TPU chips, and what is read from the program."""

import dataclasses
import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest

from jaxcodec.training import hlo, planning, sharding, sizing, topology
from jaxcodec.training.collectives import Collective, collectives, seconds
from jaxcodec.training.config import Mesh
from jaxcodec.training.traffic import traffic
from launch import compile_check

MICRO = str(pathlib.Path(micro.__file__))

# Two chips in each of two groups; a loop of five; the three ways of writing groups.
PROGRAM = """
HloModule m

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = f32[8]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%sum
}

%limit (p: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%limit, body=%body
  %g = (f32[4]{0}, bf16[6]{0}) all-gather-start(%y), replica_groups=[1,4]<=[4], dimensions={0}
  %a = (f32[2]{0}, bf16[3,2]{1,0}) all-reduce(%z), replica_groups=mesh['a'=4,'b'=1] {'a'}
}
"""


def test_collectives_are_counted_as_often_as_loops_run():
  assert collectives(hlo.read(PROGRAM), 4) == [
    Collective("all-gather", 4, 1, (16 + 12) * 4 // 5),
    Collective("all-reduce", 2, 5, 5 * 32),
    Collective("all-reduce", 4, 1, 8 + 12),
  ]


# Either branch sends; a conditional is written in two ways.
BRANCHES = """
HloModule m

%few (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-gather(%p), replica_groups=[1,4]<=[4], dimensions={0}
}

%inner (p: f32[8]) -> f32[8] {
  ROOT %r = f32[16]{0} all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%sum
}

%many (p: f32[8]) -> f32[8] {
  ROOT %r = f32[16]{0} call(%p), to_apply=%inner
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %c = f32[8]{0} conditional(%i, %x, %x), CALLS
}
"""


@pytest.mark.parametrize(
  "calls",
  ["branch_computations={%few, %many}", "true_computation=%few, false_computation=%many"],
)
def test_of_branches_the_one_that_sends_most_is_counted(calls):
  program = hlo.read(BRANCHES.replace("CALLS", calls))
  assert collectives(program, 4) == [Collective("all-reduce", 4, 1, 64)]


# As TPUs' compiler writes a sum of which each chip takes a part, and a gathering that goes on while
# others compute.
OVERLAPPED = """
HloModule m

%all-reduce-scatter.1 (a: bf16[8,4]) -> bf16[2,4] {
  %r = bf16[8,4]{1,0} all-reduce(%a), replica_groups={{0,1,2,3}}, to_apply=%sum
  ROOT %d = bf16[2,4]{1,0} dynamic-slice(%r, %i, %z), dynamic_slice_sizes={2,4}
}

%start (a: f32[2]) -> f32[8] {
  %g = f32[8]{0} all-gather(%a), replica_groups=[1,4]<=[4], backend_config={\
"async_collective_fusion_config":{"flag_end":"-1","flag_start":"-1"}}
}

%go_on (a: f32[8]) -> f32[8] {
  %h = f32[8]{0} all-gather(%a), replica_groups=[1,4]<=[4], backend_config={\
"async_collective_fusion_config":{"flag_end":"8","flag_start":"3"}}
}

ENTRY %main (a: bf16[8,4]) -> bf16[2,4] {
  %s = f32[8]{0} fusion(%x), kind=kCustom, calls=%start
  %t = f32[8]{0} fusion(%s), kind=kOutput, calls=%go_on
  ROOT %r = bf16[2,4]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_overlapped_collectives_count_once_and_scattered_sums_as_such():
  assert collectives(hlo.read(OVERLAPPED), 4) == [
    Collective("all-gather", 4, 1, 32),
    Collective("reduce-scatter", 4, 1, 64),
  ]


# Arrays S(1) lie in fast memory.
MEMORY = """
HloModule m

%fused (p: f32[10,64], i: s32[], u: f32[1,64]) -> (f32[1,64], f32[10,64]) {
  %p = f32[10,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %u = f32[1,64]{1,0} parameter(2)
  %z = s32[] constant(0)
  %s = f32[1,64]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,64}
  %a = f32[1,64]{1,0} add(%s, %u)
  %w = f32[10,64]{1,0} dynamic-update-slice(%p, %a, %i, %z)
  ROOT %t = (f32[1,64]{1,0}, f32[10,64]{1,0}) tuple(%a, %w)
}

%part (p: f32[10,64]) -> f32[2,64] {
  %p.1 = f32[10,64]{1,0} parameter(0)
  ROOT %s.1 = f32[2,64]{1,0:S(1)} slice(%p.1), slice={[0:2], [0:64]}
}

%body (c: (s32[], f32[10,64])) -> (s32[], f32[10,64]) {
  %c = (s32[], f32[10,64]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%c), index=0
  %x = f32[10,64]{1,0} get-tuple-element(%c), index=1
  %y = f32[1,64]{1,0:T(8,128)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %f = (f32[1,64]{1,0:S(1)}, f32[10,64]{1,0}) fusion(%x, %n, %y), kind=kLoop, calls=%fused
  %g = f32[10,64]{1,0} get-tuple-element(%f), index=1
  ROOT %o = (s32[], f32[10,64]{1,0}) tuple(%n, %g)
}

%limit (c: (s32[], f32[10,64])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
}

ENTRY %main (x: f32[10,64]) -> f32[10,64] {
  %x.1 = f32[10,64]{1,0} parameter(0)
  %w.1 = (s32[], f32[10,64]{1,0}) while(%t.1), condition=%limit, body=%body
  %c.1 = (f32[10,64]{1,0:S(1)}, f32[10,64]{1,0}, u32[]{:S(2)}) copy-start(%x.1)
  %d.1 = f32[10,64]{1,0:S(1)} copy-done(%c.1)
  %h.1 = ((f32[10,64]{1,0}), f32[2,64]{1,0:S(1)}, s32[]{:S(2)}) async-start(%x.1), calls=%part
  %q.1 = f32[2,64]{1,0:S(1)} async-done(%h.1)
  %k.1 = f32[2,64]{1,0:S(1)} custom-call(%q.1), custom_call_target="tpu_custom_call"
  ROOT %e.1 = f32[10,64]{1,0} negate(%d.1)
}
"""


def test_traffic_is_of_what_lies_in_large_memory():
  row = 4 * 64
  # Each time around a row is read and a row written, and an index read.
  loop = 7 * (2 * row + 4)
  # A copy's source, a slice's, and what comes out; the kernel's arrays are in fast memory.
  assert traffic(hlo.read(MEMORY)) == loop + 10 * row + 2 * row + 10 * row


def test_a_sum_over_a_ring_takes_what_its_links_allow():
  place = topology.Slice("v5e:16x16", topology.CHIPS["v5e"], (16, 16), [])
  # Scaling book: 2 V / (links x bandwidth), 255 / 256 of it, and eight hops along each axis.
  wanted = 2 * (1e9 * 255 / 256 / (4 * 4.5e10) + 16e-6)
  np.testing.assert_allclose(seconds(Collective("all-reduce", 256, 1, 10**9), place), wanted)
  # No wires lead around the end of a line of four.
  line = place._replace(sides=(1, 4))
  wanted = 1e9 * 3 / 4 / 4.5e10 + 3e-6
  np.testing.assert_allclose(seconds(Collective("all-gather", 4, 1, 10**9), line), wanted)


needs_compiler = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is for Linux on x86-64 alone"
)


@needs_compiler
@pytest.mark.parametrize(
  ("topology_name", "changes"),
  [
    ("v5e:2x2", {}),
    ("v5p:2x2x1", {"mesh": Mesh(data=1, fsdp=2, model=2, fsdp_smallest=1)}),
    ("v6e:2x2", {"remat": True, "accumulate": 2}),
  ],
)
def test_three_configurations_compile_for_four_chips(topology_name, changes):
  place = topology.slice_of(topology_name)
  found = sizing.report(micro.config(**changes), place)
  assert 0 < found.parameters < found.state < found.peak < found.hbm_bytes
  reduced = [one for one in found.sent if one.kind == "all-reduce"]
  assert reduced
  if not changes:
    # Gradients go to all chips; nothing much larger does.
    assert found.parameters * 0.5 < sum(one.num_bytes for one in reduced) < 4 * found.parameters
  if "mesh" in changes:
    assert any(one.kind in ("all-gather", "reduce-scatter") for one in found.sent)
  assert 0 < found.communication < 1


@needs_compiler
def test_a_plan_says_what_is_compiled():
  place, shape = topology.slice_of("v5e:2x2"), (4096, 128)
  mesh = sharding.make_mesh(Mesh(), place.devices)
  rows = jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding.batch_sharding(mesh))
  lowered = jax.jit(lambda x: (jnp.tanh(x @ x.T).sum(), x * 2)).lower(rows)
  plan, program = planning.planned(lowered), planning.compiled(lowered)
  assert plan.flops == program.flops
  # Scalars count padded in one and bare in the other.
  planned, compiled = hlo.read(plan.text), hlo.read(program.text)
  np.testing.assert_allclose(traffic(planned), traffic(compiled), rtol=1e-3)
  assert collectives(planned, 4) == collectives(compiled, 4) != []
  # Of what goes in and comes out alone, and all with the code.
  assert 2 * 4 * math.prod(shape) / 4 <= plan.num_bytes < program.num_bytes


@needs_compiler
def test_a_state_that_does_not_fit_is_refused_before_it_is_compiled():
  wide = micro.config(codec=micro.CODEC.clone(net=dataclasses.replace(micro.NET, num_filters=6144)))
  with pytest.raises(sizing.TooLarge, match=r"the state alone takes \d+\.\d\d GiB of each chip"):
    sizing.report(wide, topology.slice_of("v5e:2x2"))


def test_smaller_batches_are_the_last_remedy():
  settings = [setting for setting, _ in sizing.remedies(micro.config(batch_size=16), 4)]
  spread = "remat=true mesh.data=1 mesh.fsdp=4"
  small = [f"{spread} batch_size={batch}" for batch in (8, 4)]
  assert settings == ["remat=true", spread, *small]


@needs_compiler
@pytest.mark.slow
def test_a_step_that_does_not_fit_says_with_which_setting_it_would(capsys):
  call = ["--config", MICRO, "--topology", "v5e:4x4", "--set", "codec.net.num_filters=6144"]
  assert compile_check.main([*call, "--set", "batch_size=16"]) == 1
  out = capsys.readouterr().out
  assert "does not fit: the state alone takes" in out
  assert "it fits with --set remat=true --set mesh.data=1 --set mesh.fsdp=16:" in out


@needs_compiler
def test_every_program_of_a_run_of_two_stages_is_checked(monkeypatch, capsys):
  asked = []

  def report(config, place, *, at, **how):
    del config, place, how
    asked.append(at)
    if at:
      raise sizing.TooLarge("it is large")
    return "a table"

  monkeypatch.setattr(sizing, "report", report)
  monkeypatch.setattr(compile_check, "_table", str)
  config = pathlib.Path(__file__).parents[2] / "configs" / "semanticodec_16khz.py"
  assert compile_check.main(["--config", str(config), "--topology", "v5e:2x2"]) == 1
  assert asked[0] == 0
  # The second stage, and what would make it smaller.
  assert set(asked[1:]) == {200_000}
  out = capsys.readouterr().out
  assert "batch 64, steps from 0 on\na table\n" in out
  assert "steps from 200000 on does not fit: it is large" in out


@pytest.mark.parametrize(
  ("wrong", "said"),
  [
    (["--topology", "v5e:3"], "no topology"),
    (["--topology", "v9:2x2"], "no topology"),
    (["--topology", "v5e:2x2", "--set", "bathc_size=4"], "did you mean batch_size?"),
    (["--topology", "v5e:2x2", "--set", "batch_size=6"], "no multiple"),
  ],
)
def test_a_wrong_call_ends_with_status_2(wrong, said, capsys):
  assert compile_check.main(["--config", MICRO, *wrong]) == 2
  error = capsys.readouterr().err
  assert said in error
  assert error.count("\n") == 1
