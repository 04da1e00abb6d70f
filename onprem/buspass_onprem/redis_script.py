"""How an item lies in Redis, and the two scripts that judge and change items where they lie.

Owns the layout and its codec. Refuses to know connections, nodes and errors.

An item is a hash with a field for each leaf: `name`, or `name/inner` for what lies in a map of the first level, whose
own field then says `{}`. A field's value is JSON. JSON of a whole item edited in Lua is out: cjson writes integers with
14 digits and turns [] into {}. All keys of a partition share a hash tag, hence a slot of Redis Cluster:

    PREFIX{PARTITION}keys        sorted set: the keys of the partition, for `list`
    PREFIX{PARTITION}item:KEY    hash: the item
    PREFIX{PARTITION}hint:KEY    hash: index name → SHARD, SORT and a nonce: the entry that stands
    PREFIX{NAME:SHARD}index      sorted set in a slot of its own: SORT, PARTITION, KEY and the nonce, for `find`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from buspass.jsontext import read
from buspass.ports.operations import AtLeast, Condition, Delete, Equals, Index, Item, Ordinary, Path, Present, Put

_slowly: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

APPLY: Final = """
local ops = cjson.decode(ARGV[1])
local MOST = 9007199254740991

local function found(key, field, sub)
  local text = redis.call('HGET', key, field)
  if not text then return nil end
  local value = cjson.decode(text)
  if not sub then return value end
  if type(value) == 'table' then return value[sub] end
  return nil
end

local function holds(key, c)
  local kind, field, sub, want = c[1], c[2], c[3], c[4]
  if kind == 'present' and not sub then return redis.call('HEXISTS', key, field) == 1 end
  if kind == 'absent' and not sub then return redis.call('HEXISTS', key, field) == 0 end
  local value = found(key, field, sub)
  if kind == 'present' then return value ~= nil end
  if kind == 'absent' then return value == nil end
  if kind == 'equals' then return value == want end
  return type(value) == 'number' and value >= want
end

local function misfit(key, op)
  for _, parent in ipairs(op.parents) do
    if redis.call('HGET', key, parent) ~= '{}' then return parent .. ' is no map that a change could lie in' end
  end
  for _, a in ipairs(op.add) do
    local text = redis.call('HGET', key, a[1])
    local sum = tonumber(a[2])
    if text then
      if not string.match(text, '^%-?%d+$') then return a[1] .. ' is no integer that can be added to' end
      sum = sum + tonumber(text)
    end
    if sum > MOST or sum < -MOST then return a[1] .. ' would leave the integers that are kept exactly' end
  end
  if #op.clear > 0 and #op.set == 0 and #op.add == 0 then
    local gone, left = {}, 0
    for _, name in ipairs(op.clear) do gone[name] = true end
    for _, field in ipairs(redis.call('HKEYS', key)) do
      if not string.find(field, '/', 1, true) and not gone[field] then left = left + 1 end
    end
    if left == 0 then return 'nothing would be left of the item' end
  end
  return nil
end

for i, op in ipairs(ops) do  -- everything is judged before anything is written: a script can't roll back
  local key = KEYS[2 * i]
  local ok = (redis.call('EXISTS', key) == 1) ~= op.fresh
  for _, c in ipairs(op.require) do ok = ok and holds(key, c) end
  if not ok then return {i, redis.call('HGETALL', key), {}} end
  local why = misfit(key, op)
  if why then return {-i, why, {}} end
end

local last
local old = {}
for i, op in ipairs(ops) do
  local key, hints = KEYS[2 * i], KEYS[2 * i + 1]
  last = key
  if op.whole then
    redis.call('DEL', key)
    for n, text in ipairs(redis.call('HGETALL', hints)) do
      old[#old + 1] = text
      if n % 2 == 0 then old[#old + 1] = tostring(i) end
    end
    redis.call('DEL', hints)
  elseif #op.clear > 0 then
    local gone = {}
    for _, name in ipairs(op.clear) do gone[name] = true end
    for _, field in ipairs(redis.call('HKEYS', key)) do
      if gone[string.match(field, '^[^/]+')] then redis.call('HDEL', key, field) end
    end
  end
  for _, field in ipairs(op.remove) do redis.call('HDEL', key, field) end
  for n = 1, #op.set, 1000 do redis.call('HSET', key, unpack(op.set, n, math.min(n + 999, #op.set))) end
  for _, a in ipairs(op.add) do redis.call('HINCRBY', key, a[1], a[2]) end
  for _, entry in ipairs(op.index) do
    local text = redis.call('HGET', hints, entry[1])
    if text then old[#old + 1] = entry[1]; old[#old + 1] = text; old[#old + 1] = tostring(i) end
    if entry[2] then redis.call('HSET', hints, entry[1], entry[2]) else redis.call('HDEL', hints, entry[1]) end
  end
  if op.fresh then redis.call('ZADD', KEYS[1], 0, op.key) end
  if op.gone then redis.call('ZREM', KEYS[1], op.key) end
end
return {0, redis.call('HGETALL', last), old}
"""
"""KEYS: the partition's keys, then item and hints of each operation. ARGV: the operations.

Returns {0, the last item, what was withdrawn}, {i, the item, {}} where operation i is refused, {-i, why, {}} where it
does not fit. `withdrawn` is flat: index name, entry, number of the operation.
"""

LIST: Final = """
local out = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, tonumber(ARGV[3]))) do
  out[#out + 1] = name
  out[#out + 1] = redis.call('HGETALL', ARGV[4] .. name)
end
return out
"""
"""KEYS: the partition's keys. ARGV: bounds, limit, and what an item's key begins with. Returns {key, item, …}."""


def tagged(text: str) -> str:
    """Give a text that can stand between braces as a hash tag: braces would end it early, or make none of it."""
    return text.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")


def item_of(flat: Sequence[bytes]) -> Item | None:
    """Give the item that HGETALL tells, None where it tells nothing."""
    item: dict[str, Any] = {}
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        top, _, inner = name.decode().partition("/")
        if not inner and text != b"{}":
            item[top] = read(text)
            continue
        within = item.get(top)
        if within is None:
            within = item[top] = {}
        if inner:
            within[inner] = read(text)
    return item or None


def document(operations: Sequence[Ordinary], entries: Sequence[Mapping[str, str | None]]) -> str:
    """Give the script's argument. `entries`: for each operation, index name → entry, or None to withdraw it."""
    return _encode([_operation(each, named) for each, named in zip(operations, entries, strict=True)])


def _encode(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a Mapping that is no dict
        return _slowly(_plain(value))


def _operation(operation: Ordinary, entries: Mapping[str, str | None]) -> dict[str, Any]:
    common: dict[str, Any] = {
        "key": operation.key,
        "require": [_condition(condition) for condition in operation.require],
        "fresh": isinstance(operation, Put) and not operation.require,
        "whole": isinstance(operation, Put | Delete),
        "gone": isinstance(operation, Delete),
        "index": [[name, entry or False] for name, entry in entries.items()],
        "parents": [],
        "clear": [],
        "remove": [],
        "set": [],
        "add": [],
    }
    if isinstance(operation, Delete):
        return common
    if isinstance(operation, Put):
        return common | {"set": _leaves(operation.value)}
    changes = [*operation.add, *operation.set, *operation.remove]
    return common | {
        "parents": sorted({path[0] for path in changes if len(path) == 2}),
        "clear": [path[0] for path in (*operation.set, *operation.remove) if len(path) == 1],
        "remove": [_field(path) for path in operation.remove if len(path) == 2],
        "set": [text for path, value in operation.set.items() for text in (_field(path), _encode(value))],
        "add": [[_field(path), str(amount)] for path, amount in operation.add.items()],
    }


def _condition(condition: Condition) -> list[Any]:
    kind = "present" if isinstance(condition, Present) else "absent"
    want: Any = False
    if isinstance(condition, Equals | AtLeast):
        kind, want = type(condition).__name__.lower(), condition.value
    path = condition.path
    return [kind, _field(path[:2]), path[2] if len(path) == 3 else False, want]


def _field(path: Path) -> str:
    return "/".join(path)  # no segment holds a slash


def _leaves(item: Item) -> list[str]:
    flat: list[str] = []
    for name, value in item.items():
        if isinstance(value, Mapping):
            flat += [name, "{}"]
            for inner, leaf in value.items():
                flat += [f"{name}/{inner}", _encode(leaf)]
        else:
            flat += [name, _encode(value)]
    return flat


def _plain(value: Any) -> Any:
    """Give what JSON can say: a Mapping that is no dict becomes one."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def index_of(operation: Ordinary) -> Index:
    """Give the index entries that an operation names."""
    return {} if isinstance(operation, Delete) else operation.index
