// The comparison expires nothing.
#pragma once
