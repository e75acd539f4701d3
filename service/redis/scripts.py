"""Lua scripts of the chunk queue. Redis runs each of them atomically."""

# KEYS streams by priority; ARGV group, consumer, samples wanted, samples of an entry without that field. Reads one
# chunk at a time, so that a worker takes no more chunks than it has room for. Returns {index of stream, id, fields}.
TAKE = """
local taken, room = {}, tonumber(ARGV[3])
for place, stream in ipairs(KEYS) do
  while room > 0 do
    local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', stream, '>')
    if not reply then break end
    local entry = reply[1][2][1]
    local samples = tonumber(ARGV[4])
    for at = 1, #entry[2], 2 do
      if entry[2][at] == 'samples' then samples = tonumber(entry[2][at + 1]) or samples end
    end
    taken[#taken + 1] = {place, entry[1], entry[2]}
    room = room - math.max(1, samples)
  end
end
return taken
"""

# KEYS stream; ARGV group, consumer, ids. Returns per id: 1 renewed, 0 not this consumer's, -1 deleted by its front.
RENEW = """
local states = {}
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if #pending == 0 or pending[1][2] ~= ARGV[2] then
    states[#states + 1] = 0
  elseif #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) == 0 then
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
    states[#states + 1] = -1
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    states[#states + 1] = 1
  end
end
return states
"""

# KEYS stream, solo runs; ARGV group, consumer, id. Only the owner may delete an entry.
FINISH = """
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #pending == 0 or pending[1][2] ~= ARGV[2] then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""

# KEYS stream, solo runs; ARGV group, consumer, id, idle ms, 1 to count the solo run. Makes the entry claimable at once.
RELEASE = """
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #pending == 0 or pending[1][2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'JUSTID')
if ARGV[5] ~= '1' then redis.call('DEL', KEYS[2]) end
return 1
"""

# KEYS stream; ARGV group, consumer. Deleting a consumer deletes its pending entries, so only an empty one is deleted.
LEAVE = """
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if #pending > 0 then return 0 end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""
