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
    """A Lua script and the SHA-1 digest by which ``EVALSHA`` calls it."""

    text: bytes
    digest: bytes

    @classmethod
    def of(cls, text: str) -> Script:
        encoded = text.encode("ascii")
        return cls(encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest().encode("ascii"))


# KEYS: entry, lease. ARGV: token, milliseconds, "" or "1" + the identity of an entry that was refused.
# Returns {granted, entry}: an entry that is not the refused one, or a lease, or neither.
# A repeated question with the same token is granted again: the first answer may have been lost on its way.
LEASE: Final = Script.of("""
local entry = redis.pcall('GET', KEYS[1])
if type(entry) == 'string' and (ARGV[3] == '' or string.sub(entry, 1, 88) ~= string.sub(ARGV[3], 2)) then
  return {0, entry}
end
local held = redis.pcall('GET', KEYS[2])
if type(held) == 'table' then
  redis.call('UNLINK', KEYS[2])
end
if held == ARGV[1] or redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {1, false}
end
return {0, false}
""")

# KEYS: entry, lease. ARGV: token, milliseconds, "1" to unlink the entry. Returns 1.
SEIZE: Final = Script.of("""
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if ARGV[3] == '1' then
  redis.call('UNLINK', KEYS[1])
end
return 1
""")

# KEYS: lease. ARGV: token, milliseconds. Returns 1 while the lease is the token's own.
EXTEND: Final = Script.of("""
if redis.pcall('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
""")

# KEYS: lease. ARGV: token. Returns 1 if the lease was the token's own.
RELEASE: Final = Script.of("""
if redis.pcall('GET', KEYS[1]) == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
return 0
""")

# KEYS: entry, lease. ARGV: token, envelope, milliseconds. Returns 1 if stored.
# An envelope has its epoch in bytes 9 to 16 and its stamp in bytes 17 to 24: a higher stamp of the same epoch is not replaced.
STORE: Final = Script.of("""
if redis.pcall('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', KEYS[2])
local there = redis.pcall('GETRANGE', KEYS[1], 0, 23)
if type(there) == 'string' and #there == 24 and string.sub(there, 1, 2) == 'cS'
  and string.sub(there, 9, 16) == string.sub(ARGV[2], 9, 16)
  and struct.unpack('>I8', there, 17) > struct.unpack('>I8', ARGV[2], 17) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
""")

# Begins a log where there is none. The bans carry the epoch as a member of infinite score: where it is missing, bans were lost, and
# everything stamped below the head is dead.
_BEGIN: Final = """
local meta, log, bans = KEYS[1], KEYS[2], KEYS[3]
local epoch = redis.call('HGET', meta, 'e')
if not epoch then
  epoch = ARGV[1]
  redis.call('UNLINK', log, bans)
  redis.call('HSET', meta, 'e', epoch, 'n', '0', 'c', '', 'f', '0')
  redis.call('ZADD', bans, '+inf', 'e' .. epoch)
elseif not redis.call('ZSCORE', bans, 'e' .. epoch) then
  redis.call('UNLINK', bans)
  redis.call('ZADD', bans, '+inf', 'e' .. epoch)
  redis.call('HSET', meta, 'f', redis.call('HGET', meta, 'n'))
end
"""

# KEYS: meta, log, bans. ARGV: a new epoch, the log's length, the bound on bans, then for each record: nonce, mode, kind, texts as a
# JSON array, origin. Returns {epoch, number of the last record}.
APPEND: Final = Script.of(
    _BEGIN
    + """
local number
for at = 4, #ARGV, 5 do
  local nonce, mode, kind, texts, origin = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  number = redis.call('HINCRBY', meta, 'n', 1)
  local before = redis.call('HGET', meta, 'c') or ''
  redis.call('XADD', log, 'MAXLEN', '~', ARGV[2], number .. '-0', 'e', epoch, 'n', number, 'c', nonce, 'p', before,
    'm', mode, 'k', kind, 'x', texts, 'o', origin)
  redis.call('HSET', meta, 'c', nonce)
  if kind == '*' then
    redis.call('HSET', meta, 'f', number)
  else
    for _, text in ipairs(cjson.decode(texts)) do
      redis.call('ZADD', bans, number, kind .. text)
    end
  end
  local excess = redis.call('ZCARD', bans) - 1 - tonumber(ARGV[3])
  if excess > 0 then
    local dropped = redis.call('ZRANGE', bans, excess - 1, excess - 1, 'WITHSCORES')
    redis.call('ZREMRANGEBYRANK', bans, 0, excess - 1)
    local floor = math.max(tonumber(redis.call('HGET', meta, 'f') or '0'), tonumber(dropped[2]))
    redis.call('HSET', meta, 'f', string.format('%.0f', floor))
  end
end
return {epoch, number}
"""
)

# KEYS: meta, log, bans. ARGV: a new epoch. Returns {epoch, number, floor, {ban, number, ...}}.
SNAPSHOT: Final = Script.of(
    _BEGIN
    + """
local found = redis.call('HMGET', meta, 'n', 'f')
return {epoch, found[1] or '0', found[2] or '0', redis.call('ZRANGE', bans, 0, -1, 'WITHSCORES')}
"""
)

ALL: Final = (LEASE, SEIZE, EXTEND, RELEASE, STORE, APPEND, SNAPSHOT)
