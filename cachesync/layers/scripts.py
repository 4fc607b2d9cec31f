"""The scripts that run inside Redis, each on the keys of one slot.

Redis is the only place where two processes meet, so whatever has to be one piece is a script here: taking a lease looks for the
entry once more, a fill checks the lease and the stamp, an announcement takes its number and appends it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the SHA-1 digest by which ``EVALSHA`` calls it. ``plain`` is the same for servers that know no flags."""

    text: bytes
    digest: bytes
    plain: Script | None = None

    @classmethod
    def of(cls, text: str, flags: str = "") -> Script:
        """``flags`` are those of Redis 7 (Redis documentation, "Script flags")."""
        encoded = (f"#!lua flags={flags}\n{text}" if flags else text).encode("ascii")
        digest = hashlib.sha1(encoded, usedforsecurity=False).hexdigest().encode("ascii")
        return cls(encoded, digest, cls.of(text) if flags else None)


# What could not be published is read in the stream, so it is no failure of what was written; whoever announces is told.
# Sharded channels where the server has them (Redis 7), because a channel of a cluster is heard by one shard only that way.
_PUBLISH: Final = """
local unsaid = 0
local function publish(channel, message)
  local said = redis.pcall((redis.REDIS_VERSION_NUM or 0) >= 0x070000 and 'SPUBLISH' or 'PUBLISH', channel, message)
  if type(said) == 'table' and said.err then
    unsaid = unsaid + 1
  end
end
"""

# What has another type is none of ours, and counts as nothing. Any other refusal is raised: a user without the right to read would
# otherwise be told that there is nothing.
_READ: Final = """
local function read(...)
  local found = redis.pcall(...)
  if type(found) == 'table' and found.err and not string.find(found.err, 'WRONGTYPE', 1, true) then
    return redis.call(...)
  end
  return found
end
"""

# A lease holds its token, a space, and the position at which it was asked for.
# KEYS: entry, lease. ARGV: token, position, milliseconds, "" or "1" + the identity of an entry that was refused, "" or a lease to take
# over. Returns {granted, entry, lease}: an entry that is not the refused one, or a lease, or who holds it.
# A repeated question with the same token is granted again: the first answer may have been lost on its way.
LEASE: Final = Script.of(
    _READ
    + """
local entry = read('GET', KEYS[1])
if type(entry) == 'string' and (ARGV[4] == '' or string.sub(entry, 1, 88) ~= string.sub(ARGV[4], 2)) then
  return {0, entry, false}
end
local held = read('GET', KEYS[2])
if type(held) == 'table' then
  redis.call('UNLINK', KEYS[2])
  held = false
end
if not held or held == ARGV[5] or string.sub(held, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
  redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
  return {1, false, false}
end
return {0, false, held}
"""
)

# KEYS: entry, lease. ARGV: token, position, milliseconds, "1" to unlink the entry. Returns 1.
SEIZE: Final = Script.of("""
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
if ARGV[4] == '1' then
  redis.call('UNLINK', KEYS[1])
end
return 1
""")

_IS_OWN: Final = (
    _READ
    + """
local held = read('GET', KEYS[1])
local own = type(held) == 'string' and string.sub(held, 1, #ARGV[1] + 1) == ARGV[1] .. ' '
"""
)

# KEYS: lease. ARGV: token, milliseconds. Returns 1 while the lease is the token's own.
EXTEND: Final = Script.of(
    _IS_OWN
    + """
if own then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""
)

# KEYS: lease. ARGV: token, channel of those who wait, what to leave in the lease's place, milliseconds (0: nothing).
# Returns 1 if the lease was the token's own.
RELEASE: Final = Script.of(
    _PUBLISH
    + _IS_OWN
    + """
if own then
  if ARGV[4] == '0' then
    redis.call('UNLINK', KEYS[1])
  else
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  end
  publish(ARGV[2], '')
  return 1
end
return 0
"""
)

# KEYS: lease, entry. ARGV: token, channel of those who wait, envelope, milliseconds. Returns 1 if stored.
# An envelope has its epoch in bytes 9 to 16 and its stamp in bytes 17 to 24: a higher stamp of the same epoch is not replaced.
STORE: Final = Script.of(
    _PUBLISH
    + _IS_OWN
    + """
if not own then
  return 0
end
redis.call('UNLINK', KEYS[1])
local there = read('GETRANGE', KEYS[2], 0, 23)
local stored = 0
if not (type(there) == 'string' and #there == 24 and string.sub(there, 1, 2) == 'cS'
  and string.sub(there, 9, 16) == string.sub(ARGV[3], 9, 16)
  and struct.unpack('>I8', there, 17) > struct.unpack('>I8', ARGV[3], 17)) then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
  stored = 1
end
publish(ARGV[2], '')
return stored
"""
)

# Begins a log where there is none, and an epoch where another server goes on with the log of one that is gone. Fields of meta: epoch,
# number, nonce, server (the replication id of whoever numbers), cuts of older epochs, floors of all, keys, tags, and of what is soft,
# marks of time, the longest life of an entry, and what is switched for all, which outlives every epoch. The bans carry the epoch as a
# member of infinite score: where it is missing, bans were lost, and everything stamped below the head is dead.
# KEYS: meta, log, bans. ARGV: a new epoch. Only the master may do it; any other server says so.
_BEGIN: Final = (
    _READ
    + """
local meta, log, bans = KEYS[1], KEYS[2], KEYS[3]
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('READONLY this server follows another one')
end
local epoch, number, nonce
local function this_server()
  return string.match(info, 'master_replid:(%w+)')
end
local function begin()
  local switched = read('HGET', meta, 's')
  epoch, number, nonce = ARGV[1], '0', ''
  redis.call('UNLINK', meta, log, bans)
  redis.call('HSET', meta, 'e', epoch, 'n', number, 'c', nonce, 'r', this_server(), 'x', '[]')
  if type(switched) == 'string' then
    redis.call('HSET', meta, 's', switched)
  end
  redis.call('ZADD', bans, '+inf', 'e' .. epoch)
end
local found = read('HMGET', meta, 'e', 'n', 'c', 'r')
if not found.err then
  epoch, number, nonce = found[1], found[2], found[3] or ''
end
if not epoch or not tonumber(number) then
  begin()
else
  local marked = read('ZSCORE', bans, 'e' .. epoch)
  if type(marked) ~= 'string' then
    redis.call('UNLINK', bans)
    redis.call('HSET', meta, 'f', number, 'fs', number)
  end
  if not string.find(info, 'master_replid:' .. (found[4] or ''), 1, true) or not found[4] then
    local cuts = cjson.decode(redis.call('HGET', meta, 'x') or '[]')
    table.insert(cuts, 1, {epoch, tonumber(number)})
    cuts[17] = nil
    redis.call('ZREM', bans, 'e' .. epoch)
    epoch = ARGV[1]
    redis.call('HSET', meta, 'e', epoch, 'r', this_server(), 'x', cjson.encode(cuts))
    redis.call('ZADD', bans, '+inf', 'e' .. epoch)
  elseif type(marked) ~= 'string' then
    redis.call('ZADD', bans, '+inf', 'e' .. epoch)
  end
end
"""
)

# KEYS: meta, log, bans, what was announced again. ARGV: a new epoch, the log's length, how long it remembers (ms), the bound on bans,
# the longest life of an entry (ms), the channel, "1" for records that are announced again, then for each record: nonce, mode, kind,
# texts as a JSON array, origin. Returns {epoch, number of the last record,
# how many could not be published}.
# A full server still takes it (Redis 7): it goes on answering hits, so it has to hear what is out of date.
# What is kept is bounded after every 64th number or text, not after each: that is most of the script's time.
# Soft bans stand among the others with a capital letter for their kind. A ban that is dropped raises the floor of its kind.
APPEND: Final = Script.of(
    _PUBLISH
    + _BEGIN
    + """
local channel, again = ARGV[6], ARGV[7] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text_of(value)
  return string.format('%.0f', value)
end
local function raise(field, value)
  if tonumber(redis.call('HGET', meta, field) or '0') < value then
    redis.call('HSET', meta, field, text_of(value))
  end
end
local said = 0
local function append(mine, mode, kind, texts, origin)
  local before = nonce
  local following = text_of(tonumber(number) + 1)
  local added = redis.pcall('XADD', log, 'MAXLEN', '~', ARGV[2], following .. '-0', 'e', epoch, 'n', following, 'c', mine, 'p', before,
    't', text_of(now), 'm', mode, 'k', kind, 'x', texts, 'o', origin)
  if type(added) == 'table' and added.err then
    if not (string.find(added.err, 'equal or smaller', 1, true) or string.find(added.err, 'WRONGTYPE', 1, true)) then
      return added
    end
    begin()
    return append(mine, mode, kind, texts, origin)
  end
  number, nonce = following, mine
  redis.call('HSET', meta, 'n', number, 'c', nonce)
  if kind == '*' then
    raise(mode == 's' and 'fs' or 'f', tonumber(number))
  else
    local letter = mode == 's' and string.upper(kind) or kind
    for _, text in ipairs(cjson.decode(texts)) do
      said = said + 1
      redis.call('ZADD', bans, number, letter .. text)
    end
  end
  publish(channel, '{"e":"' .. epoch .. '","n":' .. number .. ',"c":"' .. nonce .. '","p":"' .. before .. '","t":' .. text_of(now)
    .. ',"m":"' .. mode .. '","k":"' .. kind .. '","x":' .. texts .. ',"o":"' .. origin .. '"}')
end
local first = tonumber(number)
for at = 8, #ARGV, 5 do
  local mine, mode, kind, texts, origin = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if again then
    local new = {}
    for _, text in ipairs(cjson.decode(texts)) do
      local member = epoch .. mode .. kind .. text
      local is_new = redis.pcall('SADD', KEYS[4], member)
      if type(is_new) == 'table' then
        redis.call('UNLINK', KEYS[4])
        is_new = redis.call('SADD', KEYS[4], member)
      end
      if is_new == 1 then
        table.insert(new, text)
      end
    end
    redis.call('PEXPIRE', KEYS[4], 600000)
    texts = #new > 0 and cjson.encode(new)
  end
  if texts then
    local refused = append(mine, mode, kind, texts, origin)
    if refused then
      return refused
    end
  end
end
if said < 64 and first > 0 and math.floor(first / 64) == math.floor(tonumber(number) / 64) then
  return {epoch, number, unsaid}
end
local floor_of = {k = 'fk', t = 'ft', p = 'f', g = 'f', K = 'fs', T = 'fs', P = 'fs', G = 'fs'}
local excess = redis.call('ZCARD', bans) - 1 - tonumber(ARGV[4])
if excess > 0 then
  local dropped = redis.call('ZRANGE', bans, 0, excess - 1, 'WITHSCORES')
  for at = 1, #dropped, 2 do
    raise(floor_of[string.sub(dropped[at], 1, 1)] or 'f', tonumber(dropped[at + 1]))
  end
  redis.call('ZREMRANGEBYRANK', bans, 0, excess - 1)
end
local life = math.max(tonumber(redis.call('HGET', meta, 'l') or '0'), tonumber(ARGV[5]))
local marks = cjson.decode(redis.call('HGET', meta, 'w') or '[]')
local newest = marks[#marks]
if not newest or now - newest[1] > life / 8 then
  table.insert(marks, {now, tonumber(number)})
  local old
  while marks[1][1] < now - life do
    old = table.remove(marks, 1)
  end
  if old then
    redis.call('ZREMRANGEBYSCORE', bans, '-inf', old[2])
    for _, field in ipairs({'f', 'fk', 'ft', 'fs'}) do
      raise(field, old[2])
    end
  end
  redis.call('HSET', meta, 'w', cjson.encode(marks), 'l', text_of(life))
end
local function at_of(record)
  for at = 1, #record[2], 2 do
    if record[2][at] == 't' then
      return tonumber(record[2][at + 1])
    end
  end
end
local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if oldest and (at_of(oldest) or 0) < now - tonumber(ARGV[3]) then
  local young
  for _, record in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 256)) do
    young = record[1]
    if (at_of(record) or 0) >= now - tonumber(ARGV[3]) then
      break
    end
  end
  redis.call('XTRIM', log, 'MINID', young)
end
return {epoch, number, unsaid}
""",
    flags="allow-oom",
)

# KEYS: meta, log, bans. ARGV: a new epoch. Returns {epoch, number, nonce, cuts as JSON, what is switched}.
SNAPSHOT: Final = Script.of(
    _BEGIN
    + """
local last = redis.call('HMGET', meta, 'c', 'x', 's')
return {epoch, number, last[1] or '', last[2] or '[]', last[3]}
"""
)

# KEYS: meta. ARGV: the log's channel, "" or what was switched once and may have been lost, then targets and values. Returns what is
# switched now. Its version is the time, milliseconds of this clock, and more than the one before: so the newest counts, also after a loss.
# A full server still takes it (Redis 7): it may be what helps.
THROW: Final = Script.of(
    _PUBLISH
    + _READ
    + """
local function version_and_switched(text)
  local is_json, found = pcall(cjson.decode, text)
  if is_json and type(found) == 'table' and type(found.v) == 'number' and type(found.s) == 'table' then
    return found.v, found.s
  end
  return 0, {}
end
local there = read('HGET', KEYS[1], 's')
local version, switched = version_and_switched(type(there) == 'string' and there or '')
local text = ARGV[2]
if text ~= '' then
  if version_and_switched(text) <= version then
    return there
  end
else
  for at = 3, #ARGV, 2 do
    local value = ARGV[at + 1]
    switched[ARGV[at]] = value ~= 'full' and value ~= 'on' and value or nil
  end
  local time = redis.call('TIME')
  version = math.max(time[1] * 1000 + math.floor(time[2] / 1000), version + 1)
  text = '{"v":' .. string.format('%.0f', version) .. ',"s":' .. cjson.encode(switched) .. '}'
end
redis.call('HSET', KEYS[1], 's', text)
publish(ARGV[1], text)
return text
""",
    flags="allow-oom",
)

# KEYS: an entry. ARGV: its identity, the first 88 bytes. Returns 1 if it was deleted: another one may have come meanwhile.
DISCARD: Final = Script.of(
    _READ
    + """
if read('GETRANGE', KEYS[1], 0, 87) == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
return 0
"""
)

# KEYS: meta, for the slot. ARGV: channel, message.
PUBLISH: Final = Script.of("""
redis.call((redis.REDIS_VERSION_NUM or 0) >= 0x070000 and 'SPUBLISH' or 'PUBLISH', ARGV[1], ARGV[2])
return 1
""")

ALL: Final = (LEASE, SEIZE, EXTEND, RELEASE, STORE, APPEND, SNAPSHOT, THROW, DISCARD, PUBLISH)

WITHOUT_FLAGS: Final = tuple((script.digest, script.plain.digest) for script in ALL if script.plain is not None)
"""Digests of scripts that have flags, and of the same without."""
