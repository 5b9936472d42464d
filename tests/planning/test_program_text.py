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
    assert total_sent([found, found]) == 80


def test_traffic_of_a_loop_is_that_of_its_turns():
    def loop(x, w):
        return jax.lax.scan(lambda y, v: (jnp.tanh(y + v), None), x, w)[0]

    x, w = np.zeros(4096, np.float32), np.zeros((50, 4096), np.float32)
    moved = memory_traffic(compiled(loop, x, w)) / x.nbytes
    # At least the carry in and out and a row, in every turn; at most copied twice.
    assert 3 * 50 <= moved <= 7 * 50
