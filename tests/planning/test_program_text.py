"""Reading compiled programs: of this machine's devices, and pieces of a TPU's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ecgssl_jax import sharding
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.planning.program_text import collectives, memory_traffic, total_sent

# As a TPU's compiler writes it, shortened.
TPU = """\
HloModule jit_f, is_scheduled=true, num_partitions=16

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  ROOT %sum = f32[]{:T(128)} add(%x, %x)
}

%fused (param_0: f32[8,128], param_1: s32[]) -> f32[1,128] {
  %param_0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  ROOT %slice = f32[1,128]{1,0:T(1,128)} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,128}
}

%split (param_2: bf16[32,64]) -> bf16[512,64] {
  %param_2 = bf16[32,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gathered = bf16[512,64]{1,0:T(8,128)(2,1)} all-gather(%param_2), channel_id=7, replica_groups=mesh['a'=4,'b'=4] {'a','b'}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(f)/gather"}
}

%body (carry: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %carry = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %number = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %stack = f32[8,128]{1,0:T(8,128)} get-tuple-element(%carry), index=1
  %row = f32[1,128]{1,0:T(1,128)} fusion(%stack, %number), kind=kLoop, calls=%fused
  %reduced = f32[1,128]{1,0:T(1,128)} all-reduce(%row), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}, to_apply=%add, metadata={op_name="jit(f)/while/body/sum"}
  ROOT %next = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%number, %stack)
}

%condition (carry.1: (s32[], f32[8,128])) -> pred[] {
  %last = s32[]{:T(128)} constant(8)
  %carry.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %number.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%number.1, %last), direction=LT
}

ENTRY %main (p: (s32[], f32[8,128]), q: bf16[32,64]) -> f32[8,128] {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %q = bf16[32,64]{1,0:T(8,128)(2,1)} parameter(1)
  %while = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%p), condition=%condition, body=%body
  %near = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} copy(%q)
  %first = bf16[512,64]{1,0:T(8,128)(2,1)} fusion(%near), kind=kCustom, calls=%split
  %second = bf16[512,64]{1,0:T(8,128)(2,1)} fusion(%near), kind=kCustom, calls=%split
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while), index=1
}
"""


def test_a_loop_s_body_counts_as_often_as_it_turns():
    reduced, gathered = collectives(TPU)
    assert (reduced.kind, reduced.times, reduced.size) == ("all-reduce", 8, 512)
    assert reduced.members == (0, 1, 2, 3)
    assert reduced.where == "jit(f)/while/body/sum"
    assert reduced.sent == 2 * 0.75 * 512 * 8
    # In two fusions, and one exchange.
    assert (gathered.kind, gathered.times) == ("all-gather", 1)
    assert gathered.members == tuple(range(16))
    assert gathered.sent == 15 / 16 * 512 * 64 * 2


def test_memory_is_moved_by_what_is_outside_of_fusions():
    row, near, whole = 512, 32 * 64 * 2, 512 * 64 * 2
    # Of the stack, a turn reads a row; the reduction reads and writes one.
    turns = 8 * (2 * row + 4 + 2 * row)
    # A copy to memory near the cores reads; what is read there is free.
    assert memory_traffic(TPU) == turns + near + 2 * whole


# A turn of a loop's gradient, as a TPU's compiler writes it: two stacks that are added to
# in place, one that is read from within a fusion in the fusion, and copies beside them.
TURN = """\
%inner (a: f32[8,128], b: s32[]) -> f32[1,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = s32[]{:T(128)} parameter(1)
  ROOT %cut = f32[1,128]{1,0:T(1,128)} dynamic-slice(%a, %b), dynamic_slice_sizes={1,128}
}

%outer (s: f32[8,128], t: f32[8,128], r: f32[8,128], i: s32[], row: f32[1,128]) -> (f32[8,128], f32[1,8,128], f32[1,128]) {
  %s = f32[8,128]{1,0:T(8,128)} parameter(0)
  %t = f32[8,128]{1,0:T(8,128)} parameter(1)
  %r = f32[8,128]{1,0:T(8,128)} parameter(2)
  %i = s32[]{:T(128)} parameter(3)
  %row = f32[1,128]{1,0:T(1,128)} parameter(4)
  %one = f32[8,128]{1,0:T(8,128)} dynamic-update-slice(%s, %row, %i)
  %two = f32[8,128]{1,0:T(8,128)} dynamic-update-slice(%t, %row, %i)
  %three = f32[1,128]{1,0:T(1,128)} fusion(%r, %i), kind=kLoop, calls=%inner
  %shaped = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%two)
  ROOT %all = (f32[8,128]{1,0:T(8,128)}, f32[1,8,128]{2,1,0:T(8,128)}, f32[1,128]{1,0:T(1,128)}) tuple(%one, %shaped, %three)
}

ENTRY %main (p: f32[8,128], q: s32[], x: f32[1,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %q = s32[]{:T(128)} parameter(1)
  %x = f32[1,128]{1,0:T(1,128)} parameter(2)
  %room = f32[8,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %turn = (f32[8,128]{1,0:T(8,128)}, f32[1,8,128]{2,1,0:T(8,128)}, f32[1,128]{1,0:T(1,128)}) fusion(%room, %room, %p, %q, %x), kind=kLoop, calls=%outer
  %near = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
  %there = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%near)
  %slice = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, u32[]{:S(2)}) slice-start(%p), slice={[0:2], [0:128]}
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%turn), index=0
}
"""


def test_stacks_that_are_added_to_in_place_move_what_is_added():
    row, stack = 128 * 4, 8 * 128 * 4
    written, read = 3 * row, row + 4 + row
    copied, cut = stack, 2 * row  # to memory near the cores, which does not count
    assert memory_traffic(TURN) == written + read + copied + cut


def test_arrays_that_are_gathered_together_all_count():
    text = (
        "ENTRY %main (p: f32[1000], q: f32[500]) -> f32[4000] {\n"
        "  %p = f32[1000]{0} parameter(0)\n"
        "  %q = f32[500]{0} parameter(1)\n"
        "  %s = ((f32[1000]{0}, f32[500]{0}), (f32[4000]{0}, f32[2000]{0})) "
        "all-gather-start(%p, %q), replica_groups={{0,1,2,3}}, dimensions={0}\n"
        "}\n"
    )
    (found,) = collectives(text)
    assert (found.size, found.sent) == (24_000, 18_000)
    assert memory_traffic(text) == 6_000 + 24_000


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", (0, 4)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}", (0, 4)),
        ("replica_groups=mesh['data'=8] {'data':(2)2}", (0, 2)),
        ("replica_groups=mesh['data'=8] {'data':(1)2}", (0, 4)),
    ],
)
def test_groups_are_read_however_they_are_written(groups, members):
    text = (
        "ENTRY %main (p: f32[4]) -> f32[4] {\n"
        "  %p = f32[4]{0} parameter(0)\n"
        f"  ROOT %r = f32[4]{{0}} all-reduce(%p), {groups}, to_apply=%add\n"
        "}\n"
    )
    (found,) = collectives(text)
    assert found.members == members


def compiled(function, *arrays):
    return jax.jit(function).lower(*arrays).compile().as_text()


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_a_sum_over_rows_is_one_exchange_of_its_size(axes):
    mesh = sharding.make_mesh(Mesh(**dict(zip(sharding.AXES, axes, strict=True))))
    rows = jax.ShapeDtypeStruct(
        (16, 100), jnp.float32, sharding=sharding.batch_sharding(mesh)
    )
    (found,) = collectives(compiled(lambda x: x.sum(axis=0), rows))
    assert (found.kind, found.size, found.devices) == (
        "all-reduce",
        400,
        axes[0] * axes[1],
    )
    assert found.members[1] - found.members[0] == axes[2]


def test_a_permutation_of_devices_is_read():
    mesh = sharding.make_mesh(Mesh())
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def turn(x):
        pairs = [(i, (i + 1) % 8) for i in range(8)]
        return jax.lax.ppermute(x, "data", pairs)

    text = compiled(
        jax.shard_map(turn, mesh=mesh, in_specs=rows.spec, out_specs=rows.spec),
        jax.ShapeDtypeStruct((8, 10), jnp.float32, sharding=rows),
    )
    (found,) = collectives(text)
    assert (found.kind, found.members, found.sent) == ("collective-permute", (0, 1), 40)
    assert sorted(found.pairs) == [(i, (i + 1) % 8) for i in range(8)]
    assert total_sent([found, found]) == 80


def test_traffic_of_a_loop_s_gradient_is_that_of_its_turns():
    """Neither the stack of weights nor that of what is kept moves in every turn."""

    def loss(w, x):
        return jax.lax.scan(lambda y, v: (jnp.tanh(y * v), None), x, w)[0].sum()

    x, w = np.ones(4096, np.float32), np.ones((50, 4096), np.float32)
    moved = memory_traffic(compiled(jax.grad(loss), w, x)) / x.nbytes
    # A CPU takes 30 rows and carries a turn; a whole stack would be 50 more.
    assert 6 * 50 <= moved <= 40 * 50


def test_traffic_of_a_loop_is_that_of_its_turns():
    def loop(x, w):
        return jax.lax.scan(lambda y, v: (jnp.tanh(y + v), None), x, w)[0]

    x, w = np.zeros(4096, np.float32), np.zeros((50, 4096), np.float32)
    moved = memory_traffic(compiled(loop, x, w)) / x.nbytes
    # At least the carry in and out and a row, in every turn; at most copied twice.
    assert 3 * 50 <= moved <= 7 * 50
