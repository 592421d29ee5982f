/** What the server's native routes say, field by field; times are unix seconds. Knows nothing of how it is shown. */

export interface Page<T> {
  object: "list";
  data: T[];
  has_more: boolean;
  first_id: string | null;
  last_id: string | null;
}

export interface Me {
  actor: { id: string; handle: string; kind: string };
  consent: { train: boolean };
  live: Version;
  base: { name: string; context_length: number | null };
  version: string;
  /** Whether the caller runs this server. */
  operator: boolean;
  /** Whether answers begin in the midst of thoughts, without an opening tag. */
  thinking: boolean;
}

export interface Project {
  id: string;
  name: string;
  created_at: number;
  status: "active" | "archived";
}

/** A key without its text, which is nowhere. */
export interface ApiKey {
  id: string;
  name: string;
  redacted_value: string;
  created_at: number;
  last_used_at: number | null;
  expires_at: number | null;
  scopes: string[];
  owner: { type: string; user: { name: string } | null };
}

export interface NewKey {
  id: string;
  name: string;
  api_key: { id: string; value: string };
}

export interface ConversationSummary {
  id: string;
  title: string | null;
  created_at: number;
  updated_at: number;
  temporary: boolean;
  train: boolean | null;
  head_message_id: string | null;
}

export interface Conversation extends ConversationSummary {
  system?: string | null;
  messages: Message[];
}

export type MessageState = "complete" | "streaming" | "stopped" | "interrupted" | "error";

export interface VersionRef {
  id: string;
  number: number;
  name: string;
}

export interface Thumb {
  value: 1 | -1;
  reasons: string[];
  comment: string | null;
  feedback_id: string;
}

export interface Message {
  id: string;
  parent_id: string | null;
  role: "system" | "user" | "assistant" | "tool";
  content: string | null;
  state: MessageState;
  sibling_index: number;
  sibling_count: number;
  created_at: number;
  author: string | null;
  generation_id: string | null;
  /** Null for what people wrote, and for as long as a comparison is blind. */
  version: VersionRef | null;
  finish_reason: string | null;
  feedback: { thumb: Thumb | null; edit: { content: string; feedback_id: string } | null } | null;
  presentation_id: string | null;
  original_id: string | null;
}

export interface Sampling {
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
}

export type Winner = "a" | "b" | "tie" | "both_bad";

export type FeedbackInput =
  | { kind: "thumb"; message_id: string; value: 1 | -1 | 0; reasons?: string[]; comment?: string }
  | { kind: "compare"; presentation_id: string; winner: Winner; comment?: string; dwell_ms?: number }
  | { kind: "edit"; message_id: string; content: string; comment?: string }
  | { kind: "demo"; conversation_id: string; parent_id: string; content: string }
  | { kind: "flag"; message_id: string; category: string; comment?: string };

export interface Feedback {
  id: string;
  kind: FeedbackInput["kind"];
  actor: string;
  message_id: string | null;
  conversation_id: string | null;
  presentation_id: string | null;
  payload: Record<string, unknown>;
  reasons: string[];
  comment: string | null;
  created_at: number;
  supersedes: string | null;
  usable: boolean;
  why_not: string | null;
}

export interface Score {
  suite: string;
  n: number;
  estimate: number;
  ci_lo: number | null;
  ci_hi: number | null;
  baseline: string | null;
  role: string | null;
}

export type Verdict = "pass" | "fail" | "insufficient";

export interface Check {
  name: string;
  verdict: Verdict;
  reason: string;
  value: unknown;
  blocking: boolean;
}

export interface Gate {
  verdict: Verdict;
  checks: Check[];
  reasons: string[];
  created_at: number;
}

export interface Version extends VersionRef {
  kind: "base" | "adapter" | "full";
  state: "candidate" | "live" | "archived" | "rejected" | "revoked";
  parent_id: string | null;
  snapshot_sha: string | null;
  job_id: string | null;
  created_at: number;
  weights_sha256: string;
  scores: Score[];
  gate: Gate | null;
  feedback_count: number;
  /** Of them, how many were erased since. */
  erased_count: number;
}

export interface Collected {
  since: VersionRef | null;
  counts: Record<string, number>;
  usable: Record<string, number>;
  unusable: { reason: string; count: number }[];
  held_out: { rows: number; people: number; conversations: number };
  ready: boolean;
  advice: string;
  running_job: string | null;
}

export type JobStatus = "validating_files" | "queued" | "running" | "succeeded" | "failed" | "cancelled" | "paused";

/** An answer that the model in training just gave. */
export interface Sample {
  prompt: string;
  answer: string;
  reward: number | null;
}

export interface Job {
  id: string;
  status: JobStatus;
  method: { type: string } | null;
  model: string;
  created_at: number;
  finished_at: number | null;
  fine_tuned_model: string | null;
  error: { message: string; code: string | null; param: string | null } | null;
  progress?: {
    stage: string | null;
    stages: string[];
    step: number | null;
    total_steps: number | null;
    eta_s: number | null;
    health: string | null;
    samples?: Sample[];
  } | null;
  series?: Record<string, [number, number][]>;
  pause_requested?: boolean;
  version_id?: string | null;
  snapshot_sha?: string | null;
}

export interface Snapshot {
  sha: string;
  kind: string;
  created_at: number;
  counts: Record<string, number>;
  split: { train: number; held_out: number };
  parent: string | null;
}

export interface Move {
  from: VersionRef | null;
  to: VersionRef;
  at: number;
}

export interface FeedbackTrace {
  feedback: Feedback;
  rows: { snapshot_sha: string; split: string; kind: string }[];
  versions: Version[];
}

export interface VersionTrace {
  version: Version;
  feedback: Feedback[];
}
