"""Every reason for which a WebSocket is closed, by its number (RFC 6455, 7.4; 4000 and up are ours).

| code | name | said when |
| --- | --- | --- |
| 1000 | NORMAL | the peer closed, and we answer |
| 1002 | PROTOCOL_ERROR | broken framing |
| 1003 | UNSUPPORTED_DATA | a binary frame |
| 1007 | INVALID_DATA | text that is not UTF-8, deflate data that does not inflate |
| 1008 | POLICY_VIOLATION | too many frames that are no messages |
| 1009 | TOO_BIG | a message over `websocket.max_message`, also after joining and inflating |
| 1011 | INTERNAL_ERROR | our fault: an exception, or we could not read for too long |
| 1012 | RESTARTING | this node drains; come back, another one is there |
| 4403 | REVOKED | the agent was forgotten; its token is refused |
| 4408 | HEARTBEAT_TIMEOUT | its lease ran out |
| 4409 | REPLACED | the same agent connected again, here or on another node |
| 4413 | READS_TOO_SLOWLY | the peer left our frames unread |
| 4429 | FLOODS | more messages than `websocket.max_messages_per_s`, for too long |
"""

NORMAL = 1000
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
RESTARTING = 1012
REVOKED = 4403
HEARTBEAT_TIMEOUT = 4408
REPLACED = 4409
READS_TOO_SLOWLY = 4413
FLOODS = 4429

NAMES = {
    NORMAL: "normal", PROTOCOL_ERROR: "protocol_error", UNSUPPORTED_DATA: "unsupported_data", INVALID_DATA: "invalid_data",
    POLICY_VIOLATION: "policy_violation", TOO_BIG: "too_big", INTERNAL_ERROR: "internal_error", RESTARTING: "restarting",
    REVOKED: "revoked", HEARTBEAT_TIMEOUT: "heartbeat_timeout", REPLACED: "replaced", READS_TOO_SLOWLY: "reads_too_slowly",
    FLOODS: "floods",
}  # fmt: skip
