"""Things of different sizes in as few boxes as can be found quickly."""

import bisect
import collections
from collections.abc import Sequence


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
  """Boxes, each the indices of what lies in it, every index once.

  The largest come first, each into the fullest box that has room: best fit decreasing, which takes
  at most 11/9 of the boxes that are needed, and four (Johnson 1973).

  Args:
    sizes: of the things, from 1 to `capacity`.
  """
  boxes: list[list[int]] = []
  # Boxes by the room in them; of equal ones the last.
  with_room: dict[int, list[int]] = collections.defaultdict(list)
  rooms: list[int] = []
  for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
    place = bisect.bisect_left(rooms, sizes[index])
    if place == len(rooms):
      box, room = len(boxes), capacity
      boxes.append([])
    else:
      room = rooms[place]
      box = with_room[room].pop()
      if not with_room[room]:
        rooms.pop(place)
    boxes[box].append(index)
    room -= sizes[index]
    if room:
      if not with_room[room]:
        bisect.insort(rooms, room)
      with_room[room].append(box)
  return boxes
