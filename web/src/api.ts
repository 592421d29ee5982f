/** Typed client of the server's native routes, and of those for keys. The only file that calls fetch; knows no component and no state. */
import type {
  ApiKey, Collected, Conversation, ConversationSummary, Feedback, FeedbackInput, FeedbackTrace, Gate, Job, Me, Message,
  Move, NewKey, Page, Project, Sampling, Snapshot, Version, VersionTrace,
} from "./types";

const ROOT = "/v1/tutee";
/** Projects and keys: routes of OpenAI's shape, for whoever runs the server. */
const PROJECTS = "/v1/organization/projects";

/** An error of the server in its own words; status 0 means that it did not answer at all. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null = null,
    readonly param: string | null = null,
  ) {
    super(message);
  }
}

/** Who is asking: a local person's handle, and a key where the server wants one. */
export const identity = { actor: "", key: "" };

async function request(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (identity.actor) headers["X-Tutee-Actor"] = identity.actor;
  if (identity.key) headers["Authorization"] = `Bearer ${identity.key}`;
  const options: RequestInit = { method, headers };
  if (body !== undefined) options.body = JSON.stringify(body);
  if (signal) options.signal = signal;
  let response: Response;
  try {
    response = await fetch(path.startsWith(PROJECTS) ? path : ROOT + path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server does not answer. Is it still running?", 0, "offline");
  }
  if (!response.ok) throw await explain(response);
  return response;
}

async function explain(response: Response): Promise<ApiError> {
  try {
    const { error } = (await response.json()) as { error: { message: string; code: string | null; param: string | null } };
    return new ApiError(error.message, response.status, error.code, error.param);
  } catch {
    return new ApiError(`The server answered ${response.status} ${response.statusText}.`, response.status);
  }
}

async function json<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await request(method, path, body)).json() as Promise<T>;
}

const get = <T>(path: string) => json<T>("GET", path);
const post = <T>(path: string, body: unknown = {}) => json<T>("POST", path, body);

function query(values: Record<string, string | number | undefined | null>): string {
  const kept = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? "?" + new URLSearchParams(kept.map(([name, value]) => [name, String(value)])) : "";
}

const id = encodeURIComponent;

export const api = {
  me: () => get<Me>("/me"),
  eraseMe: (handle: string) => json<{ deleted: true; tainted_versions: string[] }>("DELETE", "/me", { handle }),
  consent: (train: boolean) => json<{ train: boolean }>("PUT", "/consent", { train }),

  conversations: (page: { limit?: number; after?: string | null; q?: string }) =>
    get<Page<ConversationSummary>>(`/conversations${query(page)}`),
  conversation: (conversation: string) => get<Conversation>(`/conversations/${id(conversation)}`),
  createConversation: (fields: { title?: string; system?: string; temporary?: boolean }) =>
    post<ConversationSummary>("/conversations", fields),
  updateConversation: (conversation: string, fields: { title?: string; train?: boolean; head_message_id?: string }) =>
    json<ConversationSummary>("PATCH", `/conversations/${id(conversation)}`, fields),
  deleteConversation: (conversation: string) => json<unknown>("DELETE", `/conversations/${id(conversation)}`),

  say: (conversation: string, content: string, parent: string | null) =>
    post<Message>(`/conversations/${id(conversation)}/messages`, { content, parent_id: parent }),
  generate: (conversation: string, parent: string, options: { compare?: boolean; sampling?: Sampling }) =>
    post<{ presentation_id: string | null; messages: Message[] }>(`/conversations/${id(conversation)}/generate`, {
      parent_id: parent,
      ...options,
    }),
  message: (message: string) => get<Message>(`/messages/${id(message)}`),
  stop: (message: string) => post<Message>(`/messages/${id(message)}/stop`),
  stream: (message: string, offset: number, signal: AbortSignal) =>
    request("GET", `/messages/${id(message)}/stream?offset=${offset}`, undefined, signal),

  give: (feedback: FeedbackInput) => post<Feedback>("/feedback", feedback),
  feedback: (page: { limit?: number; after?: string | null; kind?: string }) =>
    get<Page<Feedback>>(`/feedback${query(page)}`),
  eraseFeedback: (feedback: string) =>
    json<{ id: string; deleted: true; tainted_versions: string[] }>("DELETE", `/feedback/${id(feedback)}`),
  traceFeedback: (feedback: string) => get<FeedbackTrace>(`/trace/${id(feedback)}`),
  traceVersion: (version: string) => get<VersionTrace>(`/trace/${id(version)}`),

  collected: () => get<Collected>("/improve"),
  improve: () => post<Job>("/improve"),
  jobs: (limit: number) => get<Page<Job>>(`/jobs${query({ limit })}`),
  job: (job: string) => get<Job>(`/jobs/${id(job)}`),
  cancelJob: (job: string) => post<Job>(`/jobs/${id(job)}/cancel`),
  pauseJob: (job: string) => post<Job>(`/jobs/${id(job)}/pause`),
  resumeJob: (job: string) => post<Job>(`/jobs/${id(job)}/resume`),
  snapshot: (sha: string) => get<Snapshot>(`/snapshots/${id(sha)}`),

  versions: () => get<Page<Version>>("/versions"),
  version: (version: string) => get<Version>(`/versions/${id(version)}`),
  judge: (version: string) => post<Gate>(`/versions/${id(version)}/gate`),
  promote: (version: string, fields: { reason?: string; override?: boolean }) =>
    post<Move>(`/versions/${id(version)}/promote`, fields),
  reject: (version: string, reason: string) => post<unknown>(`/versions/${id(version)}/reject`, { reason }),
  rollback: (reason: string) => post<Move>("/rollback", reason ? { reason } : {}),

  projects: () => get<Page<Project>>(`${PROJECTS}?limit=100`),
  createProject: (name: string) => post<Project>(PROJECTS, { name }),
  keys: (project: string) => get<Page<ApiKey>>(`${PROJECTS}/${id(project)}/api_keys?limit=100`),
  createKey: (project: string, fields: { name: string; expires_in_seconds?: number }) =>
    post<NewKey>(`${PROJECTS}/${id(project)}/service_accounts`, fields),
  updateKey: (project: string, key: string, fields: { scopes: string[] }) =>
    post<ApiKey>(`${PROJECTS}/${id(project)}/api_keys/${id(key)}`, fields),
  revokeKey: (project: string, key: string) => json<unknown>("DELETE", `${PROJECTS}/${id(project)}/api_keys/${id(key)}`),

  export: async () => (await request("GET", "/export")).blob(),
};
