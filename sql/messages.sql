-- grain: one message at its place in one conversation
-- key: conversation_id, position
-- meaning: what was said, in order; the body is stored once in message_bodies, however often it was sent.
-- is_error, error_class and latency_ms are set on tool messages only.
SELECT
    placed.conversation_id,
    placed.position,
    bodies.role,
    bodies.content,
    bodies.tool_calls,
    placed.tool_call_id,
    placed.name,
    placed.is_error,
    placed.error_class,
    placed.latency_ms,
    placed.time_ns,
    placed.message_hash,
    placed.trace_id,
    placed.span_id
FROM conversation_messages AS placed
INNER JOIN message_bodies AS bodies ON placed.message_hash = bodies.message_hash
ORDER BY placed.conversation_id, placed.position
