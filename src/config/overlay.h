// Environment variables and flags, laid over the file's tree: each takes the place of the value that it overrides and
// says so wherever it is reported.
#pragma once

#include "config/document.h"
#include "config/load.h"
#include "config/problems.h"
#include "config/table.h"

namespace marchproxy::config {

void overlay(Node& root, const Sources& sources, const Tables& tables, Problems& problems);

}  // namespace marchproxy::config
