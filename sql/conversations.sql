-- grain: one conversation
-- key: conversation_id
-- meaning: who talked, when, with which tools, how it went. tools are the definitions that the conversation
-- itself carried, else the most complete ones known of its agent, else the names of the tools it called.
WITH spoken AS (
    SELECT
        conversation_id,
        count(*) AS messages,
        CAST(sum(CASE WHEN role = 'user' THEN 1 ELSE 0 END) AS BIGINT) AS user_messages
    FROM messages
    GROUP BY conversation_id
),

called AS (
    SELECT
        conversation_id,
        count(*) AS calls,
        CAST(sum(CASE WHEN is_error THEN 1 ELSE 0 END) AS BIGINT) AS errors
    FROM tool_calls
    GROUP BY conversation_id
),

judged AS (
    SELECT conversation_id, avg(score) AS outcome FROM outcomes GROUP BY conversation_id
),

named AS (
    SELECT conversation_id, '[' || string_agg('{"name":"' || tool || '"}', ',' ORDER BY tool) || ']' AS tools
    FROM (SELECT DISTINCT conversation_id, tool FROM tool_calls) AS distinct_tools
    GROUP BY conversation_id
),

ranked AS (
    SELECT
        agent,
        tools,
        row_number() OVER (PARTITION BY agent ORDER BY tool_count DESC, started_at_ns DESC, conversation_id) AS place
    FROM conversation_facts
    WHERE tool_count > 0 AND agent <> ''
),

known AS (
    SELECT agent, tools FROM ranked WHERE place = 1
)

SELECT
    facts.conversation_id,
    facts.agent,
    facts.started_at_ns,
    facts.ended_at_ns,
    coalesce(spoken.messages, 0) AS messages,
    coalesce(spoken.user_messages, 0) AS user_messages,
    coalesce(called.calls, 0) AS calls,
    coalesce(called.errors, 0) AS errors,
    judged.outcome,
    CASE WHEN facts.tool_count > 0 THEN facts.tools ELSE coalesce(known.tools, named.tools, '[]') END AS tools,
    facts.flags,
    facts.dialects,
    facts.trace_ids,
    facts.mapping_version
FROM conversation_facts AS facts
LEFT JOIN spoken ON facts.conversation_id = spoken.conversation_id
LEFT JOIN called ON facts.conversation_id = called.conversation_id
LEFT JOIN judged ON facts.conversation_id = judged.conversation_id
LEFT JOIN named ON facts.conversation_id = named.conversation_id
LEFT JOIN known ON facts.agent = known.agent
ORDER BY facts.started_at_ns, facts.conversation_id
