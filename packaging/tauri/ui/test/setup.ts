import { cleanup, configure } from "@testing-library/react";
import { afterEach } from "vitest";

// the query is enough: a failure need not print the page; and a busy machine must not cause one
configure({ getElementError: (message) => new Error(message ?? ""), asyncUtilTimeout: 20_000 });

afterEach(cleanup);
