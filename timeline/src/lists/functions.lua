#!lua name=timeline_v2
-- Lists of tweet ids in sorted sets: home timelines tl:<user>, authors au:<user>, the public timeline pub:<n>.
--
-- An entry has the id as member and -id as score, so that the newest is at the cheap end of a listpack.
-- The last element is one of two:
--   "b" with score -floor: the list holds every entry above the floor; what is older is in the database. Floor 0: there is
--       nothing older. It also keeps an empty list in being, and so tells "empty" from "cold".
--   "r:<token>:<deadline>" with score 1 + floor: a rebuild is running; entries that are pushed meanwhile are kept.
-- A tombstone "x<id>" with score 0.5 in front of the second removes an entry when the rebuild ends.

local TOMBSTONE = 0.5

local function negative(id)
  if id == '0' then return '0' end
  return '-' .. id
end

local function last_of(key)
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  return last[1], last[2]
end

local function is_marker(member)
  return member ~= nil and string.sub(member, 1, 2) == 'r:'
end

-- The floor as text: "-0" and "-123" become "0" and "123".
local function floor_of(score)
  if string.sub(score, 1, 1) == '-' then return string.sub(score, 2) end
  return score
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Adds one entry. 1: it is there; 0: the list is cold; 2: the entry is at or below the floor.
local function push_one(key, id, cap)
  local member, score = last_of(key)
  if member == 'b' then
    local number = tonumber(id)
    if number <= -tonumber(score) then return 2 end
    if redis.call('ZCARD', key) > cap then
      local oldest = redis.call('ZRANGE', key, -2, -2)[1]
      if number < tonumber(oldest) then
        redis.call('ZADD', key, negative(id), 'b')
        return 2
      end
      if redis.call('ZSCORE', key, id) then return 1 end
      redis.call('ZREMRANGEBYRANK', key, -2, -2)
      redis.call('ZADD', key, negative(oldest), 'b', negative(id), id)
    else
      redis.call('ZADD', key, negative(id), id)
    end
    return 1
  end
  if not is_marker(member) then return 0 end
  redis.call('ZREM', key, 'x' .. id)
  redis.call('ZADD', key, negative(id), id)
  if redis.call('ZCARD', key) > cap + 1 then
    local oldest = redis.call('ZREVRANGEBYSCORE', key, '(0', '-inf', 'LIMIT', 0, 1)[1]
    redis.call('ZREM', key, oldest)
    local dropped = 1 + tonumber(oldest)
    if dropped > tonumber(score) then redis.call('ZADD', key, string.format('%.0f', dropped), member) end
  end
  return 1
end

-- KEYS: lists; ARGV: the cap, then one id per key. Returns the number of lists that have the entry now.
local function push(keys, args)
  local cap, warm = tonumber(args[1]), 0
  for index, key in ipairs(keys) do
    if push_one(key, args[index + 1], cap) == 1 then warm = warm + 1 end
  end
  return warm
end

-- KEYS: one list; ARGV: the cap, then ids.
local function merge(keys, args)
  local cap, warm = tonumber(args[1]), 0
  if not last_of(keys[1]) then return 0 end
  for index = 2, #args do
    if push_one(keys[1], args[index], cap) == 1 then warm = warm + 1 end
  end
  return warm
end

local function remove_one(key, id)
  if redis.call('ZREM', key, id) == 1 then
    local member = last_of(key)
    if not is_marker(member) then return 1 end
  end
  if is_marker((last_of(key))) then redis.call('ZADD', key, TOMBSTONE, 'x' .. id) end
  return 0
end

-- KEYS: lists; ARGV: one id per key.
local function remove(keys, args)
  local removed = 0
  for index, key in ipairs(keys) do removed = removed + remove_one(key, args[index]) end
  return removed
end

-- KEYS: one list; ARGV: ids.
local function filter(keys, args)
  local removed = 0
  for _, id in ipairs(args) do removed = removed + remove_one(keys[1], id) end
  return removed
end

-- KEYS: lists. Removes them, and returns for each whether it was there.
local function forget(keys)
  local removed = {}
  for index, key in ipairs(keys) do removed[index] = redis.call('DEL', key) end
  return removed
end

-- KEYS: one list; ARGV: token, lease in ms, "force" or "". "begun", "busy" (another rebuild runs) or "warm".
local function rebuild_begin(keys, args)
  local key, token, lease = keys[1], args[1], tonumber(args[2])
  local member, score = last_of(key)
  local now = now_ms()
  local marker = 'r:' .. token .. ':' .. string.format('%.0f', now + lease)
  if is_marker(member) then
    local deadline = tonumber(string.match(member, ':(%d+)$'))
    if deadline > now then return 'busy' end
    redis.call('ZREM', key, member)
    redis.call('ZADD', key, score, marker)
  elseif member == 'b' and args[3] ~= 'force' then
    return 'warm'
  else
    redis.call('DEL', key)
    redis.call('ZADD', key, 1, marker)
  end
  redis.call('PEXPIRE', key, lease * 6)
  return 'begun'
end

-- KEYS: one list; ARGV: token, cap, ttl in s, floor, then ids, the newest first. 1 if the rebuild was this one's.
local function rebuild_commit(keys, args)
  local key, token, cap, floor = keys[1], args[1], tonumber(args[2]), args[4]
  local member, score = last_of(key)
  if not is_marker(member) or string.sub(member, 1, #token + 3) ~= 'r:' .. token .. ':' then return 0 end
  local dropped = tonumber(score) - 1
  if dropped > tonumber(floor) then floor = string.format('%.0f', dropped) end
  local tombstones = redis.call('ZRANGE', key, TOMBSTONE, TOMBSTONE, 'BYSCORE')
  redis.call('ZREM', key, member)
  redis.call('ZREMRANGEBYSCORE', key, TOMBSTONE, TOMBSTONE)
  for first = 5, #args, 50 do
    local entries = {}
    for index = first, math.min(first + 49, #args) do
      entries[#entries + 1] = negative(args[index])
      entries[#entries + 1] = args[index]
    end
    redis.call('ZADD', key, unpack(entries))
    if redis.call('ZCARD', key) > cap then
      local highest = redis.call('ZRANGE', key, cap, cap)[1]
      if tonumber(highest) > tonumber(floor) then floor = highest end
      redis.call('ZREMRANGEBYRANK', key, cap, -1)
    end
  end
  for _, tombstone in ipairs(tombstones) do redis.call('ZREM', key, string.sub(tombstone, 2)) end
  redis.call('ZREMRANGEBYSCORE', key, negative(floor), '+inf')
  redis.call('ZADD', key, negative(floor), 'b')
  redis.call('EXPIRE', key, args[3])
  return 1
end

-- KEYS: one list; ARGV: max_id, since_id, limit, ttl in s, the first id that is young enough.
-- {0}: cold; {1}: a rebuild runs; {2, floor, ids…}: the entries above the floor.
local function read(keys, args)
  local key, since = keys[1], args[2]
  local member, score = last_of(key)
  if is_marker(member) then return {1} end
  if member ~= 'b' then return {0} end
  local floor = floor_of(score)
  local oldest = redis.call('ZRANGE', key, -2, -2)[1]
  if oldest and tonumber(oldest) < tonumber(args[5]) then
    local newest = redis.call('ZRANGE', key, '(' .. negative(args[5]), '+inf', 'BYSCORE', 'LIMIT', 0, 1)[1]
    if newest and newest ~= 'b' then
      floor = newest
      redis.call('ZREMRANGEBYSCORE', key, negative(floor), '+inf')
      redis.call('ZADD', key, negative(floor), 'b')
    end
  end
  if redis.call('TTL', key) * 2 < tonumber(args[4]) then redis.call('EXPIRE', key, args[4]) end
  if tonumber(since) < tonumber(floor) then since = floor end
  local result = redis.call('ZRANGE', key, negative(args[1]), '(' .. negative(since), 'BYSCORE', 'LIMIT', 0, args[3])
  table.insert(result, 1, floor)
  table.insert(result, 1, 2)
  return result
end

redis.register_function('tl_v2_push', push)
redis.register_function('tl_v2_merge', merge)
redis.register_function('tl_v2_rebuild_begin', rebuild_begin)
redis.register_function('tl_v2_rebuild_commit', rebuild_commit)

-- What reads or removes works at maxmemory as well: otherwise nothing would ever become free.
redis.register_function({ function_name = 'tl_v2_remove', callback = remove, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'tl_v2_filter', callback = filter, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'tl_v2_forget', callback = forget, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'tl_v2_read', callback = read, flags = { 'allow-oom' } })
