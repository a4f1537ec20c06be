"""`BlockPool`: which block of the paged KV cache belongs to whom, and what is known already.

The cache is cut into blocks of `BLOCK` tokens. A sequence holds a `Table` of them. A full block
whose tokens are certain is registered in a prefix tree, so that whoever begins the same shares
it: a second turn, a regenerated reply, two chats with one system prompt. The keys of the tree
are the tokens themselves, compared as they are, so no collision can hand out another's text.
Keys and values depend on the LoRAs that they were computed with, so every mix has its own tree.

The idea of tables: https://arxiv.org/abs/2309.06180 (PagedAttention), and of the tree:
https://arxiv.org/abs/2312.07104 (RadixAttention). Nothing here touches a tensor: what must be
copied on the device is told to the runner.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from modules.engine.mix import Mix

__all__ = ["BLOCK", "BlockPool", "CacheFullError", "Table"]

BLOCK = 16
"""Tokens of a block."""


class CacheFullError(Exception):
    """The KV cache has fewer blocks to give than are needed."""

    def __init__(self, needed: int, free: int) -> None:
        # The scheduler knows by the word "memory" what to advise.
        super().__init__(
            f"The memory of the KV cache is used up: {needed} more blocks of {BLOCK} tokens "
            f"are needed, and {free} are free."
        )


@dataclass(slots=True, eq=False)
class _Node:
    """A registered block: `tokens` after those of all its ancestors.

    `copies` are blocks of running sequences that hold the same; see `BlockPool.settle`.
    """

    parent: _Node | None
    tokens: tuple[int, ...]
    block: int
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)
    copies: list[int] = field(default_factory=list)

    def ancestor(self, steps: int) -> _Node:
        """The node that many steps nearer to the root."""
        node = self
        for _ in range(steps):
            assert node.parent is not None
            node = node.parent
        return node


@dataclass(slots=True, eq=False)
class _Root(_Node):
    """Where the prefixes of one mix begin; `tables` is how many live ones were started here."""

    parent: _Node | None = None
    tokens: tuple[int, ...] = ()
    block: int = -1
    mix: Mix = ()
    tables: int = 0


@dataclass(slots=True, eq=False)
class Table:
    """The blocks of one sequence: token i lies in `blocks[i // BLOCK]`, at i % BLOCK.

    All but `blocks` is the pool's own: the first `registered` blocks are in the tree of `root`,
    the last of them (or one that holds the same) as `node`.
    """

    blocks: list[int]
    root: _Root
    node: _Node
    registered: int = 0
    released: bool = False

    @property
    def mix(self) -> Mix:
        """The LoRAs that the sequence is computed with."""
        return self.root.mix


class BlockPool:
    """Gives out block ids 0 to `blocks` - 1, and remembers what the registered ones hold.

    A block is free, or held by one or more tables, or known: registered, and held by nobody.
    Known blocks are free for the taking; the least recently used goes first.

    Whoever holds the content of a node holds that of its ancestors too, and a table gives up
    its blocks from the end. So in `_known`, which is in order of release, every node stands
    before its ancestors, and the first is always a leaf: a shared beginning outlives what
    follows it without any search.

    Measured on one core of a busy server: `start` of 2,000 known tokens 60 µs, their `settle`
    230 µs and `release` 20 µs; `grow` and `settle` of a decode step 1 µs together.
    """

    def __init__(self, blocks: int) -> None:
        self._size = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._holders = [0] * blocks
        self._nodes: list[_Node | None] = [None] * blocks
        """The node whose content a block holds: as its `block`, or as one of its `copies`."""
        self._known: OrderedDict[int, None] = OrderedDict()
        self._roots: dict[Mix, _Root] = {}

    @property
    def free(self) -> int:
        """How many blocks could be taken, those of known prefixes among them."""
        return len(self._free) + len(self._known)

    @property
    def used(self) -> int:
        """How many blocks are held by tables."""
        return self._size - self.free

    def start(self, token_ids: list[int], mix: Mix) -> tuple[Table, int]:
        """A table of the longest known prefix in whole blocks, and how many tokens that is.

        At least the last of `token_ids` is left to compute, for its logits. No block is taken.
        """
        root = self._roots.get(mix)
        if root is None:
            root = self._roots[mix] = _Root(mix=mix)
        root.tables += 1
        node: _Node = root
        blocks: list[int] = []
        for begin in range(0, len(token_ids) - BLOCK, BLOCK):
            child = node.children.get(tuple(token_ids[begin : begin + BLOCK]))
            if child is None:
                break
            node = child
            self._hold(node.block)
            blocks.append(node.block)
        return Table(blocks, root, node, len(blocks)), len(blocks) * BLOCK

    def grow(self, table: Table, tokens: int) -> None:
        """Let a table hold `tokens` tokens in all.

        Raises CacheFullError, and changes nothing, when there are not enough blocks.
        """
        needed = (tokens + BLOCK - 1) // BLOCK - len(table.blocks)
        if needed <= 0:
            return
        if needed > self.free:
            raise CacheFullError(needed, self.free)
        for _ in range(needed):
            table.blocks.append(self._take())

    def settle(self, table: Table, token_ids: list[int], count: int) -> None:
        """The first `count` of `token_ids` are computed and certain: others may share them.

        Only whole blocks are registered. Where another sequence that ran beside this one has
        registered the same already, the table keeps its own block, so that ids that the device
        was told stay true in mid-reply; it is noted as a copy, and stands in as soon as the
        other is given up. So what anybody holds is never evicted from the tree.
        """
        whole = count // BLOCK
        if whole <= table.registered or not self._is_current(table.root):
            return
        node = table.node
        for index in range(table.registered, whole):
            tokens = tuple(token_ids[index * BLOCK : (index + 1) * BLOCK])
            block = table.blocks[index]
            child = node.children.get(tokens)
            if child is None:
                child = node.children[tokens] = _Node(node, tokens, block)
                self._nodes[block] = child
            elif self._nodes[block] is None:
                self._add_copy(child, block)
            node = child
        table.node, table.registered = node, whole

    def rewind(self, table: Table, tokens: int) -> list[tuple[int, int]]:
        """Keep the first `tokens` tokens, of those that the table holds.

        Returns the copies (source, target) of whole blocks that must be made on the device
        before anything else is written: none, or one where the next token falls into a block
        that others hold or may find; the table has the target then. Raises CacheFullError, and
        changes nothing, when there is no block for it.
        """
        whole, rest = divmod(tokens, BLOCK)
        kept = whole + (rest > 0)
        dropped = table.blocks[kept:]
        shared = rest and self._holders[table.blocks[whole]] > 1
        if shared and not self.free and all(self._holders[block] > 1 for block in dropped):
            raise CacheFullError(1, 0)
        del table.blocks[kept:]
        for block in reversed(dropped):
            self._drop(block)
        if table.registered > whole:
            table.node = table.node.ancestor(table.registered - whole)
            table.registered = whole
        return self._make_writable(table, whole) if rest else []

    def fork(self, table: Table, tokens: int) -> tuple[Table, list[tuple[int, int]]]:
        """Another table of the first `tokens` tokens, and the copies to make, as for `rewind`.

        Full blocks are shared, and one that is full in part is copied. Raises CacheFullError,
        and changes nothing, when there is no block for the copy.
        """
        whole, rest = divmod(tokens, BLOCK)
        if rest and not self.free:
            raise CacheFullError(1, 0)
        blocks = table.blocks[:whole]
        for block in blocks:
            self._holders[block] += 1
        copies: list[tuple[int, int]] = []
        if rest:
            copies.append((table.blocks[whole], self._take()))
            blocks.append(copies[0][1])
        registered = min(table.registered, whole)
        node = table.node.ancestor(table.registered - registered)
        table.root.tables += 1
        return Table(blocks, table.root, node, registered), copies

    def release(self, table: Table) -> None:
        """Give up a table, which is empty then. What is registered of it stays known.

        Twice is harmless; no other use of it is allowed.
        """
        if table.released:
            return
        for block in reversed(table.blocks):
            self._drop(block)
        table.blocks.clear()
        table.released = True
        table.root.tables -= 1
        self._prune(table.root)

    def forget(self, adapter: str) -> None:
        """Drop all known prefixes that were computed with an adapter.

        Tables that were started with it keep their blocks, and nobody else will share them.
        """
        for mix in [mix for mix in self._roots if adapter in dict(mix)]:
            nodes: list[_Node] = [*self._roots.pop(mix).children.values()]
            while nodes:
                node = nodes.pop()
                nodes.extend(node.children.values())
                node.children.clear()
                for block in (node.block, *node.copies):
                    self._nodes[block] = None
                if not self._holders[node.block]:
                    del self._known[node.block]
                    self._free.append(node.block)

    def clear(self) -> None:
        """Drop all known prefixes that nobody holds."""
        while self._known:
            self._free.append(self._evict())

    def _is_current(self, root: _Root) -> bool:
        """Whether its prefixes may still be found: `forget` replaces a root."""
        return self._roots.get(root.mix) is root

    def _hold(self, block: int) -> None:
        """Another holder of a registered block."""
        if not self._holders[block]:
            del self._known[block]
        self._holders[block] += 1

    def _take(self) -> int:
        """A block with one holder. There has to be one."""
        block = self._free.pop() if self._free else self._evict()
        self._holders[block] = 1
        return block

    def _drop(self, block: int) -> None:
        """A holder less."""
        self._holders[block] -= 1
        if self._holders[block]:
            return
        node = self._nodes[block]
        if node is not None and node.block == block and not node.copies:
            self._known[block] = None
            return
        if node is not None:
            self._detach(block, node)
        self._free.append(block)

    def _evict(self) -> int:
        """The block of the least recently used leaf, which is known no more."""
        block, _ = self._known.popitem(last=False)
        self._unregister(block)
        return block

    def _unregister(self, block: int) -> None:
        """Take the leaf of a block, which has no copies, out of the tree."""
        node = self._nodes[block]
        assert node is not None and node.parent is not None
        self._nodes[block] = None
        del node.parent.children[node.tokens]
        if isinstance(node.parent, _Root):
            self._prune(node.parent)

    def _prune(self, root: _Root) -> None:
        """Forget a mix that nothing is known of; there may be as many as there are weights."""
        if not root.tables and not root.children and self._is_current(root):
            del self._roots[root.mix]

    def _add_copy(self, node: _Node, block: int) -> None:
        """`block`, which somebody holds, has the content of `node` too."""
        if self._holders[node.block]:
            node.copies.append(block)
        else:
            del self._known[node.block]
            self._nodes[node.block] = None
            self._free.append(node.block)
            node.block = block
        self._nodes[block] = node

    def _detach(self, block: int, node: _Node) -> None:
        """Of several blocks of a node, this one is its no more."""
        if node.block == block:
            node.block = node.copies.pop()
        else:
            node.copies.remove(block)
        self._nodes[block] = None

    def _make_writable(self, table: Table, index: int) -> list[tuple[int, int]]:
        """Let a block of a table be its alone, and unknown to the tree; the copies to make."""
        block = table.blocks[index]
        node = self._nodes[block]
        if self._holders[block] == 1:
            if node is None:
                return []
            if node.block != block or node.copies:
                self._detach(block, node)
                return []
            if not self.free:
                # A leaf: any child that is left would be known, hence free, or its holder
                # would hold this block or a copy of it.
                self._unregister(block)
                return []
        target = self._take()
        table.blocks[index] = target
        self._drop(block)
        return [(block, target)]
