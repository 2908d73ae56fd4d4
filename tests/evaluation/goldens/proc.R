# DeLong's numbers from pROC for every case of scores.csv, as JSON on standard output.
suppressPackageStartupMessages(library(pROC))
data <- read.csv("scores.csv")
number <- function(x) sprintf("%.17g", x)
cases <- lapply(unique(data$case), function(name) {
  d <- data[data$case == name, ]
  ra <- roc(d$y, d$a, levels = c(0, 1), direction = "<", quiet = TRUE)
  rb <- roc(d$y, d$b, levels = c(0, 1), direction = "<", quiet = TRUE)
  test <- roc.test(ra, rb, method = "delong", paired = TRUE)
  plain <- function(r) ci.auc(r, conf.level = 0.95, method = "delong")
  values <- c(
    auc_a = auc(ra), auc_b = auc(rb),
    var_a = var(ra, method = "delong"), var_b = var(rb, method = "delong"),
    cov = cov(ra, rb, method = "delong"),
    low_a = plain(ra)[1], high_a = plain(ra)[3], low_b = plain(rb)[1], high_b = plain(rb)[3],
    z = unname(test$statistic), p = test$p.value,
    difference_low = test$conf.int[1], difference_high = test$conf.int[2]
  )
  paste0("  \"", name, "\": {", paste0("\"", names(values), "\": ", number(values), collapse = ", "), "}")
})
cat("{\n  \"proc\": \"", as.character(packageVersion("pROC")), "\",\n", sep = "")
cat("  \"r\": \"", paste(R.version$major, R.version$minor, sep = "."), "\",\n", sep = "")
cat(paste(cases, collapse = ",\n"), "\n}\n", sep = "")
