/** What the user service tells. Every message is keyed by its user. */
import { Topic } from "oncebox"
import { Amount, Id } from "../shell/bounds.ts"

export const usersEvents = Topic.events("users-events")

/** `balance` is what the user's account is to be opened with. */
export const UserCreatedEvent = usersEvents.message(
  "UserCreatedEvent",
  { userId: Id, balance: Amount },
  { key: "userId" }
)

/** The user's account is to be closed. */
export const UserDeletedEvent = usersEvents.message("UserDeletedEvent", { userId: Id }, { key: "userId" })
