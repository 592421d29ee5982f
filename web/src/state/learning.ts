/** What was collected, the running job, and the versions: the right half of the circle. */
import { signal } from "@preact/signals";
import { ApiError, api } from "../api";
import type { Collected, Job, Version } from "../types";
import { newest, once } from "./once";
import { refreshMe } from "./session";
import { attempt, complain, toast } from "./toast";

export const collected = signal<Collected | null>(null);
export const jobs = signal<Job[]>([]);
/** The job that is watched: the running one, or the last one that ran while the page was open. */
export const watched = signal<Job | null>(null);
export const versions = signal<Version[] | null>(null);
/** True while the server does not say how the watched job goes on. */
export const unheard = signal(false);

const TICK_MS = 1000;
let round = 0;

export const isOver = (job: Job): boolean => ["succeeded", "failed", "cancelled"].includes(job.status);

const readCollected = newest(() => attempt(() => api.collected()));
const readJobs = newest(() => attempt(() => api.jobs(20)));
const readVersions = newest(() => attempt(() => api.versions()));

export async function loadLearning(): Promise<void> {
  const [found, list, known] = await Promise.all([readCollected(), readJobs(), readVersions()]);
  if (found) collected.value = found;
  if (list) jobs.value = list.data;
  if (known) versions.value = known.data;
}

/** Look at `id` every second until it is over, another job is watched, or `unwatch` is called. */
export function watch(id: string): void {
  const mine = ++round;
  if (watched.value?.id !== id) watched.value = null;
  const look = async () => {
    const job = await api.job(id).catch((error: unknown) => {
      if (mine === round) unheard.value = !(error instanceof ApiError && error.status === 404);
      if (unheard.value || mine !== round) return undefined; // it is away: look again
      complain(error);
      round++;
      return undefined;
    });
    if (mine !== round) return;
    if (job) {
      watched.value = job;
      unheard.value = false;
    }
    if (job && isOver(job)) await Promise.all([loadLearning(), refreshMe()]);
    else setTimeout(() => void look(), TICK_MS);
  };
  void look();
}

export function unwatch(): void {
  round++;
  unheard.value = false;
}

export async function startImproving(): Promise<void> {
  const job = await once("improve", () => attempt(() => api.improve()));
  if (!job) return;
  watched.value = job;
  watch(job.id);
  const found = await readCollected();
  if (found) collected.value = found;
}

export async function cancel(id: string): Promise<void> {
  const job = await attempt(() => api.cancelJob(id));
  if (job) toast("The job stops after this step.");
}

export async function pause(id: string): Promise<void> {
  const job = await turn(id, api.pauseJob);
  if (job) toast(job.status === "paused" ? "The job is paused." : "The job pauses after this step and keeps what it learned.");
}

export async function resume(id: string): Promise<void> {
  if (await turn(id, api.resumeJob)) toast("The job goes on from its last checkpoint.");
}

async function turn(id: string, work: (id: string) => Promise<Job>): Promise<Job | undefined> {
  const job = await once(`turn ${id}`, () => attempt(() => work(id)));
  if (!job) return undefined;
  if (watched.value?.id === id) watched.value = job;
  await loadLearning();
  return job;
}

/** Do something to the versions, then read what it changed. */
export async function decide(work: () => Promise<unknown>, said: string): Promise<boolean> {
  const done = await once("decide", () => attempt(work));
  if (done === undefined) return false;
  await Promise.all([loadLearning(), refreshMe()]);
  toast(said);
  return true;
}
