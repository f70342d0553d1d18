/** What a campaign leaves in its folder. */
export const files = {
  /** That the folder is a campaign's. */
  mark: "campaign",
  run: "run.json",
  schedule: "schedule.json",
  nemesis: "nemesis.jsonl",
  history: "history.jsonl",
  injected: "injected.json",
  snapshot: "snapshot.json",
  replayed: "replayed.json",
  verdict: "verdict.json"
} as const
