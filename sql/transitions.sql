-- grain: one answered tool call
-- key: conversation_id, call_index
-- meaning: what the world did: this call, in this conversation, got this answer. The world is trained on it.
SELECT
    conversation_id,
    call_index,
    tool,
    arguments,
    content,
    is_error,
    error_class,
    latency_ms,
    started_at_ns
FROM tool_calls
WHERE content IS NOT NULL
ORDER BY conversation_id, call_index
