-- grain: one conversation that a user began
-- key: scenario_id
-- meaning: where an episode may start: system prompt, tools, the first user message, and the hidden goal
-- (everything the user wrote, in order). Its facts are the conversation's transitions.
WITH users AS (
    SELECT
        conversation_id,
        min(position) AS first_position,
        array_agg(content ORDER BY position) AS goal
    FROM messages
    WHERE role = 'user' AND content IS NOT NULL AND content <> ''
    GROUP BY conversation_id
),

systems AS (
    SELECT conversation_id, min(position) AS first_position
    FROM messages
    WHERE role = 'system'
    GROUP BY conversation_id
)

SELECT
    conversations.conversation_id AS scenario_id,
    conversations.conversation_id,
    coalesce(system_messages.content, '') AS system,
    conversations.tools,
    user_messages.content AS first_user_message,
    users.goal,
    conversations.outcome,
    conversations.started_at_ns
FROM conversations
INNER JOIN users ON conversations.conversation_id = users.conversation_id
INNER JOIN messages AS user_messages
    ON users.conversation_id = user_messages.conversation_id AND users.first_position = user_messages.position
LEFT JOIN systems ON conversations.conversation_id = systems.conversation_id
LEFT JOIN messages AS system_messages
    ON systems.conversation_id = system_messages.conversation_id AND systems.first_position = system_messages.position
ORDER BY conversations.started_at_ns, conversations.conversation_id
