"""The Lua scripts by which limits and quotas are counted in Redis, each one atomic.

They know keys by position only, and nothing of what the keys are called. Strings in a module, not
files: so they are in every wheel without further ado.

What is kept, where ``#`` is a key by position:

- a *buckets* hash of a scope: for each bucket what is missing from it and, in ``FIELD@``, when that
  was so. It is a whole number of units: a millionth of a request in buckets by the second, a
  sixty-millionth of a request or token in those by the minute; so that a microsecond of refilling
  is a whole number too, and doubles (Lua has nothing else) stay exact. No hash: all are full.
- a *leases* sorted set of a scope: the leases by when they expire. One of a key is kept for its
  ``max_concurrent`` or for its quota, whichever there is.
- a *holds* hash of a key: what each lease reserves of the quota; their sum is in ``+``. It lives
  and dies with the key's leases.
- a *counter* hash of a key: ``used`` tokens of the quota in the period that began at ``start``.
- the *settled* string of a process: the number of the last batch of settlements that was applied.

Times are microseconds since the epoch of Redis's own clock, or of the argument ``now`` if that is
not empty. What may vanish when nobody uses it has a time to live; a bucket outlives the moment in
which it is full by a minute, a counter its period by a week.

A plan (JSON) says what limits a request: ``ttl`` of leases in microseconds; ``scopes``, each
``[bucket #, leases #, max_concurrent, buckets]`` with buckets ``[FIELD, size, rate, unit, kind]``,
size in units, rate in units by the microsecond, kind ``r`` (requests) or ``t`` (tokens); and
``quota``: false or ``[counter #, holds #, leases #, total, period, used_before]``.

They need Redis 5 or Valkey, and one server: their keys lie in different slots of a Redis Cluster.
"""

from __future__ import annotations

from typing import Final

_PRELUDE: Final = """
local call, floor, min, max = redis.call, math.floor, math.min, math.max
local DAY, MINUTE_MS, WEEK_S = 86400, 60000, 604800

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- The day number of the first of the month that a day (counted from 1970-01-01) lies in. Years are
-- taken to begin in March: so the leap day is a year's last, and months before it have a rule.
local function first_of_month(day)
  local since = day + 719468                      -- from 0000-03-01
  local cycle = since % 146097                    -- in the calendar's cycle of 400 years
  local year = floor((cycle - floor(cycle / 1460) + floor(cycle / 36524) - floor(cycle / 146096))
    / 365)
  local in_year = cycle - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * in_year + 2) / 153)
  return day - (in_year - floor((153 * month + 2) / 5))
end

-- When the period that now lies in began, and when it ends; seconds, 0 for never.
local function bounds(period, now)
  if period == 'never' then return 0, 0 end
  local day = floor(now / 1000000 / DAY)
  local first, next_first = day, day + 1
  if period == 'weekly' then
    first = day - (day + 3) % 7                   -- 1970-01-01 was a Thursday
    next_first = first + 7
  elseif period == 'monthly' then
    first = first_of_month(day)
    next_first = first_of_month(first + 31)
  end
  return first * DAY, next_first * DAY
end

-- What is used of a quota now, the start of the period that counts, its end, and whether that must
-- be written: because nothing was, or an earlier period. Of two periods the later one stands.
local function counted(counter, period, used_before, now)
  local start, finish = bounds(period, now)
  local kept = call('HMGET', counter, 'start', 'used')
  local kept_start = tonumber(kept[1] or '')
  if not kept_start then return used_before, start, finish, true end
  if kept_start < start then return 0, start, finish, true end
  return tonumber(kept[2] or '') or 0, kept_start, finish, false
end

-- A counter that began above nothing stays: were it forgotten, it would begin there once more.
local function count(counter, used, start, finish, used_before, now)
  call('HSET', counter, 'start', start, 'used', max(0, used))
  if finish == 0 or used_before > 0 then
    call('PERSIST', counter)
  else
    call('EXPIRE', counter, max(0, finish - floor(now / 1000000)) + WEEK_S)
  end
end

-- Takes one lease's hold off the sum.
local function let_go(holds, lease)
  local kept = call('HMGET', holds, lease, '+')
  local held, sum = tonumber(kept[1] or ''), tonumber(kept[2] or '') or 0
  if not held then return end
  if sum > held then
    call('HDEL', holds, lease)
    call('HSET', holds, '+', sum - held)
  else
    call('DEL', holds)                            -- the others, if any, hold nothing
  end
end

-- Collects expired leases, at most a thousand in one call, and says how many are alive.
local function alive(leases, holds, now)
  local expired = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1000)
  for _, lease in ipairs(expired) do
    call('ZREM', leases, lease)
    if holds then let_go(holds, lease) end
  end
  return call('ZCOUNT', leases, '(' .. string.format('%.17g', now), '+inf')
end

local function touch(key, ttl)
  call('PEXPIRE', key, 4 * floor(ttl / 1000))
end

-- Says what is missing from a scope's buckets now, and whether that was written at a later time. A
-- clock set back refills nothing.
local function missing(key, buckets, now)
  local fields = {}
  for i, bucket in ipairs(buckets) do
    fields[2 * i - 1] = bucket[1]
    fields[2 * i] = bucket[1] .. '@'
  end
  local kept = call('HMGET', key, unpack(fields))
  local found, later = {}, false
  for i, bucket in ipairs(buckets) do
    local before, at = tonumber(kept[2 * i - 1] or ''), tonumber(kept[2 * i] or '')
    found[i] = 0
    if before and at then
      found[i] = max(0, before - max(0, now - at) * bucket[3])
      later = later or at > now
    end
  end
  return found, later
end

local function keep_missing(key, buckets, found, now, less)
  local words, full_ms = {}, 0
  for i, bucket in ipairs(buckets) do
    words[#words + 1] = bucket[1]
    words[#words + 1] = found[i]
    words[#words + 1] = bucket[1] .. '@'
    words[#words + 1] = now
    full_ms = max(full_ms, found[i] / bucket[3] / 1000)
  end
  call('HSET', key, unpack(words))
  if less then return end                         -- it lives long enough
  call('PEXPIRE', key, min(floor(full_ms) + MINUTE_MS, 1e15))
end

local function whole(number) return string.format('%.0f', number) end
local function exact(number) return string.format('%.17g', number) end
"""

ACQUIRE: Final = (
    _PRELUDE
    + """
-- ARGV: plan, lease, tokens, now. Gives the tokens held of the quota if all limits let the request
-- pass. Else nothing was taken, and it gives why ('exceeded', 'reserved', 'limited'), and then for
-- each scope the leases that are alive and what is missing from its buckets.
local plan, lease, tokens = cjson.decode(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local now = clock(ARGV[4])
local quota, hold, verdict = plan.quota, 0, nil
local used, start, finish, fresh, held, of_key
if quota then
  used, start, finish, fresh = counted(KEYS[quota[1]], quota[5], quota[6], now)
  if used >= quota[4] then return {'exceeded'} end
  of_key = alive(KEYS[quota[3]], KEYS[quota[2]], now)
  held = tonumber(call('HGET', KEYS[quota[2]], '+') or '') or 0
  hold = min(tokens, quota[4] - used - held)
  if quota[4] - used - held <= 0 then verdict = 'reserved' end
end

local found, running = {}, {}
for i, scope in ipairs(plan.scopes) do
  running[i] = 0
  if scope[3] > 0 then
    if quota and quota[3] == scope[2] then
      running[i] = of_key
    else
      running[i] = alive(KEYS[scope[2]], nil, now)
    end
    if running[i] >= scope[3] then verdict = verdict or 'limited' end
  end
  if #scope[4] > 0 then
    local later
    found[i], later = missing(KEYS[scope[1]], scope[4], now)
    -- Or else what was empty would stay so, for refused requests too, until that time has come.
    if later then keep_missing(KEYS[scope[1]], scope[4], found[i], now, false) end
    for j, bucket in ipairs(scope[4]) do
      local need = bucket[5] == 't' and min(tokens * bucket[4], bucket[2]) or bucket[4]
      if found[i][j] + need > bucket[2] then verdict = verdict or 'limited' end
    end
  end
end

if verdict then
  local reply = {verdict}
  for i, scope in ipairs(plan.scopes) do
    reply[#reply + 1] = whole(running[i])
    for j in ipairs(scope[4]) do reply[#reply + 1] = exact(found[i][j]) end
  end
  return reply
end

for i, scope in ipairs(plan.scopes) do
  if #scope[4] > 0 then
    for j, bucket in ipairs(scope[4]) do
      local need = bucket[5] == 't' and min(tokens * bucket[4], bucket[2]) or bucket[4]
      found[i][j] = found[i][j] + need
    end
    keep_missing(KEYS[scope[1]], scope[4], found[i], now, false)
  end
  if scope[3] > 0 and not (quota and quota[3] == scope[2]) then
    call('ZADD', KEYS[scope[2]], now + plan.ttl, lease)
    touch(KEYS[scope[2]], plan.ttl)
  end
end
if quota then
  if fresh then count(KEYS[quota[1]], used, start, finish, quota[6], now) end
  call('ZADD', KEYS[quota[3]], now + plan.ttl, lease)
  call('HSET', KEYS[quota[2]], lease, hold, '+', held + hold)
  touch(KEYS[quota[3]], plan.ttl)
  touch(KEYS[quota[2]], plan.ttl)
end
return whole(hold)
"""
)
"""Takes one request's share of all that limits it, or nothing."""

SETTLE: Final = (
    _PRELUDE
    + """
-- KEYS: settled, then those of the plans. ARGV: number of the batch, now, plans (JSON), each
-- [offset into KEYS, plan], and items (JSON), each [plan #, how, lease, tokens asked for, tokens
-- used]. How: 's' settle, 'u' undo, 'm' undo if it was granted at all, 'c' only count what was
-- used, 'r' only end the lease.
-- A batch that was applied before is not applied again. Gives how many items could not be.
local batch, now = tonumber(ARGV[1]), clock(ARGV[2])
if (tonumber(call('GET', KEYS[1]) or '') or 0) >= batch then return 0 end
-- Written first: if Redis refuses to write (out of memory, read-only), nothing has been applied.
call('SET', KEYS[1], batch, 'EX', DAY)

local plans = cjson.decode(ARGV[3])
local function apply(item)
  local number, how, lease, asked, spent = unpack(item)
  local offset, plan = unpack(plans[number])
  local quota, granted = plan.quota, how ~= 'm' and how ~= 'c'
  if how ~= 'c' then
    for _, scope in ipairs(plan.scopes) do
      if scope[3] > 0 and not (quota and quota[3] == scope[2])
        and call('ZREM', KEYS[offset + scope[2]], lease) == 1 then granted = true end
    end
    if quota then
      if call('ZREM', KEYS[offset + quota[3]], lease) == 1 then granted = true end
      let_go(KEYS[offset + quota[2]], lease)
    end
  end
  if granted and how ~= 'r' then
    for _, scope in ipairs(plan.scopes) do
      local buckets = scope[4]
      local found, changed, less = nil, false, true
      for j, bucket in ipairs(buckets) do
        local back = 0
        if bucket[5] == 't' then
          back = min(asked * bucket[4], bucket[2])
          if how == 's' then back = back - spent * bucket[4] end
        elseif how ~= 's' then
          back = bucket[4]
        end
        if back ~= 0 then
          found = found or missing(KEYS[offset + scope[1]], buckets, now)
          local left = max(0, found[j] - back)
          changed = changed or left ~= found[j]
          less = less and left <= found[j]
          found[j] = left
        end
      end
      if changed then keep_missing(KEYS[offset + scope[1]], buckets, found, now, less) end
    end
  end
  if quota and (how == 's' or how == 'c') then
    local counter = KEYS[offset + quota[1]]
    local used, start, finish = counted(counter, quota[5], quota[6], now)
    count(counter, used + spent, start, finish, quota[6], now)
  end
end

local failed = 0
for _, item in ipairs(cjson.decode(ARGV[4])) do
  if not pcall(apply, item) then failed = failed + 1 end
end
return failed
"""
)
"""Settles requests, a batch of them, exactly once."""

RENEW: Final = (
    _PRELUDE
    + """
-- ARGV: ttl, now, leases (JSON), each [offset into KEYS, lease, hold, leases #s, holds # or 0].
-- Those that have gone, because they had expired or Redis had forgotten them, are put back.
local ttl, now = tonumber(ARGV[1]), clock(ARGV[2])
local touched = {}
for _, entry in ipairs(cjson.decode(ARGV[3])) do
  local offset, lease, hold, places, holds = unpack(entry)
  for _, place in ipairs(places) do
    call('ZADD', KEYS[offset + place], now + ttl, lease)
    touched[KEYS[offset + place]] = true
  end
  if holds > 0 then
    local key = KEYS[offset + holds]
    if call('HSETNX', key, lease, hold) == 1 then
      call('HSET', key, '+', (tonumber(call('HGET', key, '+') or '') or 0) + hold)
    end
    touched[key] = true
  end
end
for key in pairs(touched) do touch(key, ttl) end
return 0
"""
)
"""Lets leases live on."""

STANDING: Final = (
    _PRELUDE
    + """
-- ARGV: plan, now. Gives of the plan's first scope, if it has any, the leases that are alive and
-- what is missing from the buckets; then of its quota, if it has one, what is used, what is
-- reserved, and when the period ends, in seconds.
local plan, now = cjson.decode(ARGV[1]), clock(ARGV[2])
local quota, scope, reply = plan.quota, plan.scopes[1], {}
local holds = quota and KEYS[quota[2]]
if quota then alive(KEYS[quota[3]], holds, now) end
if scope then
  reply[1] = '0'
  if scope[3] > 0 then reply[1] = whole(alive(KEYS[scope[2]], holds, now)) end
  if #scope[4] > 0 then
    for _, lack in ipairs(missing(KEYS[scope[1]], scope[4], now)) do
      reply[#reply + 1] = exact(lack)
    end
  end
end
if quota then
  local used, _, finish = counted(KEYS[quota[1]], quota[5], quota[6], now)
  reply[#reply + 1] = whole(used)
  reply[#reply + 1] = whole(tonumber(call('HGET', holds, '+') or '') or 0)
  reply[#reply + 1] = whole(finish)
end
return reply
"""
)
"""Says how a key stands."""

QUOTA_USED: Final = (
    _PRELUDE
    + """
-- KEYS: counters. ARGV: now, then for each key its period and used_before. Gives what is used. A
-- counter that is to begin above nothing begins, or else it would in a later period; if Redis
-- refuses to write, it does not.
local now, reply = clock(ARGV[1]), {}
for i, counter in ipairs(KEYS) do
  local before = tonumber(ARGV[2 * i + 1])
  local used, start, finish, fresh = counted(counter, ARGV[2 * i], before, now)
  if fresh and before > 0 then pcall(count, counter, used, start, finish, before, now) end
  reply[i] = whole(used)
end
return reply
"""
)
"""Says what is used of many quotas, and has the counting of them begin."""

SET_QUOTA_USED: Final = (
    _PRELUDE
    + """
-- KEYS: a counter. ARGV: now, period, used_before, tokens.
local now = clock(ARGV[1])
local start, finish = bounds(ARGV[2], now)
count(KEYS[1], tonumber(ARGV[4]), start, finish, tonumber(ARGV[3]), now)
return 0
"""
)
"""Sets what is used of a quota in the running period."""

BOUNDS: Final = (
    _PRELUDE
    + """
-- ARGV: now, period. Gives when the period that now lies in began, and when it ends, in seconds.
local start, finish = bounds(ARGV[2], clock(ARGV[1]))
return {whole(start), whole(finish)}
"""
)
"""Says what the scripts take for the bounds of a period; for whoever doubts their calendar."""
