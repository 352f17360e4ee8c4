"""Distribute items over packs with two budgets, tokens and images, leaving hardly any room.

Exact fit: a pack begins with the longest item left, goes on with items in their given order, so
that what is left stays as varied as the whole, and ends with two items that fill the room to the
last token. Which lengths are left is one integer with a bit per length; the pairs that add up to a
room are then one shift and one AND of it with its mirror image, whatever the number of items.

Where that needs over 1% more packs than the totals would allow, best-fit decreasing is tried too
(the largest item first, each into the fullest pack with room), and the plan with fewer is taken.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

_PAIR_FROM = 2.5  # mean lengths of room at which to look for the closing pair; best of 1.5 to 4
_CLOSE_ENOUGH = 1.01  # packs over the fewest possible from which another way is tried
_SLACK = 48  # tokens that a closing pair may leave empty


def pack_window(
    lengths: Sequence[int], images: Sequence[int], pack_tokens: int, pack_images: int
) -> list[list[int]]:
    """Distribute items over packs; return the numbers of the items in each, ascending.

    Each item is in one pack, and no two packs would fit into one. Raises ValueError for an item
    that is over a budget by itself.
    """
    if not lengths:
        return []
    for length, count in zip(lengths, images, strict=True):
        if length > pack_tokens or count > pack_images:
            raise ValueError(
                f"an item of {length} tokens and {count} images is over the budget of "
                f"{pack_tokens} and {pack_images}"
            )
    fewest = max(-(-sum(lengths) // pack_tokens), -(-sum(images) // max(pack_images, 1)))
    packs = exact_fit(lengths, images, pack_tokens, pack_images)
    if len(packs) > _CLOSE_ENOUGH * fewest:
        other = best_fit(lengths, images, pack_tokens, pack_images)
        packs = other if len(other) < len(packs) else packs
    return [sorted(pack) for pack in packs]


def exact_fit(
    lengths: Sequence[int], images: Sequence[int], pack_tokens: int, pack_images: int
) -> list[list[int]]:
    """Fill one pack after the other, each closed by two items that fit exactly, where some do."""
    left = _Left(lengths, pack_tokens)
    take, by_length, used = left.take, left.by_length, left.used
    shortest = min(by_length)
    close_at = _PAIR_FROM * sum(lengths) / len(lengths)
    following, end = 0, len(lengths)  # the first item left, in the given order
    packs = []
    while left.bits:
        pack: list[int] = []
        room, shown = pack_tokens, pack_images  # tokens and images that still fit
        barred = 0  # bits of the lengths of which every item left has too many images
        while room >= shortest:
            if pack and room > close_at:
                while following < end and used[following]:
                    following += 1
                if following < end:
                    length = lengths[following]
                    if length <= room - shortest and images[following] <= shown:
                        pack.append(take(length, 0))  # the first item is the first of its length
                        room -= length
                        shown -= images[following]
                        continue
            fitting = left.bits & ((2 << room) - 1) & ~barred
            if not fitting:
                break
            longest = fitting.bit_length() - 1
            if pack and longest < room:
                rest = room - longest
                one, other = left.pair(room, 0 if rest >= shortest else min(rest - 1, _SLACK))
                if one:
                    items = by_length[one]
                    count = images[items[-1]]
                    count += images[items[-2] if one == other else by_length[other][-1]]
                    if count <= shown:
                        pack += (take(one, -1), take(other, -1))
                        room -= one + other
                        shown -= count
                        continue
            place = -1
            items = by_length[longest]
            if images[items[-1]] > shown:
                place = next((n for n, item in enumerate(items) if images[item] <= shown), None)
                if place is None:
                    barred |= 1 << longest
                    continue
            item = take(longest, place)
            pack.append(item)
            room -= longest
            shown -= images[item]
        packs.append(pack)
    return packs


class _Left:
    """The items that are in no pack yet, by length.

    Bit n of `bits` says that an item of n tokens is left; bit `pack_tokens - n` of `mirror` too.
    """

    def __init__(self, lengths: Sequence[int], pack_tokens: int) -> None:
        self.by_length: dict[int, list[int]] = {}  # items, ascending
        for item, length in enumerate(lengths):
            if length in self.by_length:
                self.by_length[length].append(item)
            else:
                self.by_length[length] = [item]
        self.bits = self.mirror = 0
        for length in self.by_length:
            self.bits |= 1 << length
            self.mirror |= 1 << (pack_tokens - length)
        self.used = bytearray(len(lengths))
        self._pack_tokens = pack_tokens

    def take(self, length: int, place: int) -> int:
        """Remove and return an item of this length."""
        items = self.by_length[length]
        item = items.pop(place)
        self.used[item] = 1
        if not items:
            self.bits ^= 1 << length
            self.mirror ^= 1 << (self._pack_tokens - length)
        return item

    def pair(self, room: int, slack: int) -> tuple[int, int]:
        """Return two lengths that fill `room` but for `slack` tokens at most, or (0, 0)."""
        for empty in range(slack + 1):
            hits = self.bits & (self.mirror >> (self._pack_tokens - room + empty))
            if hits:
                one = hits.bit_length() - 1
                other = room - empty - one
                if one != other or len(self.by_length[one]) > 1:
                    return one, other
        return 0, 0


def best_fit(
    lengths: Sequence[int], images: Sequence[int], pack_tokens: int, pack_images: int
) -> list[list[int]]:
    """Put the largest item first, by the larger of its two needs, each into the fullest pack."""
    scale = pack_tokens / max(pack_images, 1)
    sizes = [max(length, count * scale) for length, count in zip(lengths, images, strict=True)]
    packs: list[list[int]] = []
    left: list[int] = []  # images that still fit, per pack
    room: list[tuple[int, int]] = []  # (tokens that still fit, pack), ascending
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        length, count = lengths[item], images[item]
        place = bisect_left(room, (length, -1))
        while place < len(room) and left[room[place][1]] < count:
            place += 1
        if place < len(room):
            free, pack = room.pop(place)
        else:
            free, pack = pack_tokens, len(packs)
            packs.append([])
            left.append(pack_images)
        packs[pack].append(item)
        left[pack] -= count
        insort(room, (free - length, pack))
    return packs
