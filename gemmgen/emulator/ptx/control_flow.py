"""Basic blocks and immediate post-dominators, where diverged threads meet again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gemmgen.emulator.ptx.operands import LabelRef
from gemmgen.errors import EmulationError

if TYPE_CHECKING:
    from gemmgen.emulator.ptx.program import Decoded

EXIT = -1


@dataclass
class Block:
    """Instructions ``start`` to ``end`` (exclusive) that run one after another.

    Attributes:
        successors: blocks that may follow.
        target: the block a branch at the end goes to, or None.
        fallthrough: the block that follows where no branch is taken, or None at the end of the program.
        reconverge: the immediate post-dominator, or ``EXIT``.
    """

    index: int
    start: int
    end: int
    successors: list[int] = field(default_factory=list)
    target: int | None = None
    fallthrough: int | None = None
    reconverge: int = EXIT


def build_blocks(instructions: Sequence[Decoded], labels: dict[str, int]) -> list[Block]:
    """Cut a program into blocks.

    Args:
        instructions: the program.
        labels: instruction index of each label.

    Raises:
        EmulationError: control can run past the last instruction.
    """
    leaders = {0, *(index for index in labels.values() if index < len(instructions))}
    leaders |= {i.index + 1 for i in instructions if ends_block(i) and i.index + 1 < len(instructions)}
    starts = sorted(leaders)
    ends = [*starts[1:], len(instructions)]
    blocks = [Block(n, start, end) for n, (start, end) in enumerate(zip(starts, ends, strict=True))]
    block_at = {block.start: block.index for block in blocks}
    for block in blocks:
        _connect(block, instructions[block.end - 1], labels, block_at, len(blocks))
    _find_post_dominators(blocks)
    return blocks


def ends_block(instruction: Decoded) -> bool:
    """Whether control may go elsewhere after an instruction."""
    return instruction.semantic in ("control.bra", "control.exit", "control.trap")


def _connect(block: Block, last: Decoded, labels: dict[str, int], block_at: dict[int, int], count: int) -> None:
    if last.semantic == "control.bra":
        if len(last.operands) != 1 or not isinstance(last.operands[0], LabelRef):
            raise EmulationError("bra needs one label", where=f"PTX line {last.line}", got=last.opcode)
        block.target = block_at[labels[last.operands[0].target]]
        block.successors.append(block.target)
    unconditional = ends_block(last) and last.guard is None
    if not unconditional:
        if block.index + 1 == count:
            raise EmulationError("the kernel runs past its last instruction", where=f"PTX line {last.line}", need="ret")
        block.fallthrough = block.index + 1
        if block.fallthrough not in block.successors:
            block.successors.append(block.fallthrough)


def _find_post_dominators(blocks: list[Block]) -> None:
    """Cooper, Harvey and Kennedy's iteration on the reversed graph, whose root is the exit."""
    root = len(blocks)
    successors = [block.successors or [root] for block in blocks]
    for block in blocks:
        if block.fallthrough is not None and not block.successors:
            successors[block.index] = [root]
    predecessors: list[list[int]] = [[] for _ in range(root + 1)]
    for index, following in enumerate(successors):
        for successor in following:
            predecessors[successor].append(index)
    order = _reverse_postorder(root, predecessors)
    rank = {node: position for position, node in enumerate(order)}
    parent: dict[int, int] = {root: root}
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            known = [s for s in successors[node] if s in parent]
            if not known:
                continue
            best = known[0]
            for other in known[1:]:
                best = _meet(best, other, parent, rank)
            if parent.get(node) != best:
                parent[node] = best
                changed = True
    for block in blocks:
        found = parent.get(block.index, root)
        block.reconverge = EXIT if found == root else found


def _meet(a: int, b: int, parent: dict[int, int], rank: dict[int, int]) -> int:
    while a != b:
        while rank[a] > rank[b]:
            a = parent[a]
        while rank[b] > rank[a]:
            b = parent[b]
    return a


def _reverse_postorder(root: int, edges: list[list[int]]) -> list[int]:
    seen, order = {root}, []
    stack = [(root, iter(edges[root]))]
    while stack:
        node, following = stack[-1]
        for successor in following:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(edges[successor])))
                break
        else:
            stack.pop()
            order.append(node)
    return order[::-1]
